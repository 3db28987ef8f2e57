// SPDX-License-Identifier: Apache-2.0

package directory

// Places are towns of all German states with a postal code of their centre and its coordinates.
var Places = []Place{
	{"Berlin", "10117", "Berlin", 52.5170, 13.3889}, {"Berlin", "12045", "Berlin", 52.4848, 13.4390}, {"Berlin", "10625", "Berlin", 52.5090, 13.3140}, {"Berlin", "13347", "Berlin", 52.5490, 13.3660},
	{"Hamburg", "20095", "Hamburg", 53.5511, 10.0000}, {"Hamburg", "22765", "Hamburg", 53.5530, 9.9280}, {"München", "80331", "Bayern", 48.1351, 11.5720}, {"München", "81675", "Bayern", 48.1390, 11.6000},
	{"Köln", "50667", "Nordrhein-Westfalen", 50.9387, 6.9550}, {"Frankfurt am Main", "60311", "Hessen", 50.1109, 8.6821}, {"Stuttgart", "70173", "Baden-Württemberg", 48.7784, 9.1800},
	{"Düsseldorf", "40213", "Nordrhein-Westfalen", 51.2250, 6.7740}, {"Leipzig", "04109", "Sachsen", 51.3400, 12.3730}, {"Dortmund", "44137", "Nordrhein-Westfalen", 51.5130, 7.4590},
	{"Essen", "45127", "Nordrhein-Westfalen", 51.4570, 7.0120}, {"Bremen", "28195", "Bremen", 53.0790, 8.8010}, {"Bremerhaven", "27568", "Bremen", 53.5440, 8.5790}, {"Dresden", "01067", "Sachsen", 51.0550, 13.7290},
	{"Hannover", "30159", "Niedersachsen", 52.3740, 9.7360}, {"Nürnberg", "90403", "Bayern", 49.4560, 11.0790}, {"Duisburg", "47051", "Nordrhein-Westfalen", 51.4330, 6.7650},
	{"Bochum", "44787", "Nordrhein-Westfalen", 51.4820, 7.2190}, {"Wuppertal", "42103", "Nordrhein-Westfalen", 51.2560, 7.1500}, {"Bielefeld", "33602", "Nordrhein-Westfalen", 52.0230, 8.5330},
	{"Bonn", "53111", "Nordrhein-Westfalen", 50.7370, 7.0980}, {"Münster", "48143", "Nordrhein-Westfalen", 51.9610, 7.6260}, {"Karlsruhe", "76133", "Baden-Württemberg", 49.0100, 8.3970},
	{"Mannheim", "68161", "Baden-Württemberg", 49.4870, 8.4660}, {"Augsburg", "86150", "Bayern", 48.3660, 10.8940}, {"Wiesbaden", "65183", "Hessen", 50.0820, 8.2410},
	{"Aachen", "52062", "Nordrhein-Westfalen", 50.7760, 6.0840}, {"Braunschweig", "38100", "Niedersachsen", 52.2640, 10.5240}, {"Chemnitz", "09111", "Sachsen", 50.8320, 12.9230},
	{"Kiel", "24103", "Schleswig-Holstein", 54.3220, 10.1320}, {"Halle (Saale)", "06108", "Sachsen-Anhalt", 51.4830, 11.9690}, {"Magdeburg", "39104", "Sachsen-Anhalt", 52.1280, 11.6320},
	{"Freiburg im Breisgau", "79098", "Baden-Württemberg", 47.9960, 7.8490}, {"Lübeck", "23552", "Schleswig-Holstein", 53.8660, 10.6850}, {"Erfurt", "99084", "Thüringen", 50.9780, 11.0290},
	{"Rostock", "18055", "Mecklenburg-Vorpommern", 54.0880, 12.1400}, {"Mainz", "55116", "Rheinland-Pfalz", 49.9990, 8.2730}, {"Kassel", "34117", "Hessen", 51.3150, 9.4930},
	{"Saarbrücken", "66111", "Saarland", 49.2350, 6.9960}, {"Potsdam", "14467", "Brandenburg", 52.3990, 13.0600}, {"Oldenburg", "26122", "Niedersachsen", 53.1390, 8.2140},
	{"Osnabrück", "49074", "Niedersachsen", 52.2760, 8.0470}, {"Heidelberg", "69117", "Baden-Württemberg", 49.4110, 8.7060}, {"Regensburg", "93047", "Bayern", 49.0170, 12.0970},
	{"Würzburg", "97070", "Bayern", 49.7940, 9.9290}, {"Ulm", "89073", "Baden-Württemberg", 48.3980, 9.9920}, {"Göttingen", "37073", "Niedersachsen", 51.5330, 9.9350},
	{"Koblenz", "56068", "Rheinland-Pfalz", 50.3590, 7.5980}, {"Jena", "07743", "Thüringen", 50.9280, 11.5870}, {"Trier", "54290", "Rheinland-Pfalz", 49.7570, 6.6390},
	{"Cottbus", "03046", "Brandenburg", 51.7590, 14.3340}, {"Schwerin", "19053", "Mecklenburg-Vorpommern", 53.6280, 11.4130}, {"Flensburg", "24937", "Schleswig-Holstein", 54.7830, 9.4350},
	{"Görlitz", "02826", "Sachsen", 51.1540, 14.9870}, {"Passau", "94032", "Bayern", 48.5740, 13.4650}, {"Konstanz", "78462", "Baden-Württemberg", 47.6600, 9.1750},
	{"Greifswald", "17489", "Mecklenburg-Vorpommern", 54.0960, 13.3810}, {"Fulda", "36037", "Hessen", 50.5510, 9.6760}, {"Bamberg", "96047", "Bayern", 49.8920, 10.8880},
	{"Lüneburg", "21335", "Niedersachsen", 53.2490, 10.4080}, {"Husum", "25813", "Schleswig-Holstein", 54.4770, 9.0510}, {"Bad Ems", "56130", "Rheinland-Pfalz", 50.3350, 7.7130},
}
