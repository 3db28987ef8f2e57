// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"github.com/konsil-health/konsil/internal/health/certificate"
)

var givenNames = []string{
	"Anna", "Maria", "Julia", "Katharina", "Sabine", "Susanne", "Petra", "Claudia", "Martina", "Birgit", "Ayşe", "Elif", "Olga", "Svetlana", "Miriam", "Hannah", "Lena", "Sophie", "Charlotte", "Johanna",
	"Franziska", "Ulrike", "Heike", "Gisela", "Renate", "Karin", "Nadine", "Fatima", "Agnieszka", "Linh", "Thomas", "Michael", "Andreas", "Stefan", "Christian", "Jörg", "Jürgen", "Günter", "Klaus", "Wolfgang",
	"Matthias", "Markus", "Frank", "Peter", "Martin", "Felix", "Jonas", "Paul", "Maximilian", "Lukas", "Mehmet", "Mustafa", "Dimitri", "Karim", "Piotr", "Minh", "Björn", "Sören", "Friedrich", "Johannes",
}

var familyNames = []string{
	"Müller", "Schmidt", "Schneider", "Fischer", "Weber", "Meyer", "Wagner", "Becker", "Schulz", "Hoffmann", "Schäfer", "Koch", "Bauer", "Richter", "Klein", "Wolf", "Schröder", "Neumann", "Schwarz", "Zimmermann",
	"Braun", "Krüger", "Hofmann", "Hartmann", "Lange", "Schmitt", "Werner", "Krause", "Meier", "Lehmann", "Köhler", "Herrmann", "König", "Walter", "Mayer", "Huber", "Kaiser", "Fuchs", "Peters", "Lang",
	"Scholz", "Möller", "Weiß", "Jung", "Hahn", "Vogel", "Friedrich", "Keller", "Günther", "Frank", "Berger", "Winkler", "Roth", "Beck", "Lorenz", "Baumann", "Franke", "Albrecht", "Schuster", "Simon",
	"Ludwig", "Böhm", "Winter", "Kraus", "Martin", "Schumacher", "Krämer", "Vogt", "Stein", "Jäger", "Otto", "Sommer", "Groß", "Seidel", "Heinrich", "Brandt", "Haas", "Schreiber", "Graf", "Dietrich",
	"Yılmaz", "Kaya", "Demir", "Öztürk", "Kowalski", "Nowak", "Nguyen", "Petrov", "Haddad", "Rossi", "von Ahlen", "zur Mühlen", "Sauerbruch", "Eschenbach", "Oppermann", "Thiele", "Kühn", "Ebert", "Nagel", "Wirth",
}

var streets = []string{
	"Hauptstraße", "Bahnhofstraße", "Schillerstraße", "Goethestraße", "Lindenallee", "Gartenweg", "Marktplatz", "Kirchgasse", "Rathausstraße", "Bergstraße", "Schulstraße", "Am Stadtpark", "Uferweg", "Friedrichstraße",
	"Wilhelmstraße", "Mozartstraße", "Beethovenstraße", "Rosenweg", "Dorfstraße", "Am Mühlenbach", "Kaiserstraße", "Sonnenallee", "Robert-Koch-Straße", "Virchowstraße", "Sauerbruchweg",
}

// Specialties are medical fields of the directory's code system (urn:oid:1.3.6.1.4.1.19376.3.276.1.5.4).
var Specialties = []Concept{
	{"ALLG", "Allgemeinmedizin"}, {"INNE", "Innere Medizin"}, {"KARD", "Kardiologie"}, {"FRAU", "Frauenheilkunde und Geburtshilfe"}, {"KIJU", "Kinder- und Jugendmedizin"}, {"AUGE", "Augenheilkunde"},
	{"HNOH", "Hals-Nasen-Ohrenheilkunde"}, {"HAUT", "Haut- und Geschlechtskrankheiten"}, {"NEUR", "Neurologie"}, {"ORTH", "Orthopädie"}, {"CHIR", "Chirurgie"}, {"UNFC", "Unfallchirurgie"}, {"GAST", "Gastroenterologie"},
	{"PNEU", "Pneumologie"}, {"RHEU", "Rheumatologie"}, {"NEPH", "Nephrologie"}, {"ENDO", "Endokrinologie und Diabetologie"}, {"HAEM", "Hämatologie und internistische Onkologie"}, {"ANAE", "Anästhesiologie"},
	{"GERI", "Geriatrie"}, {"PALL", "Palliativmedizin"}, {"NOTF", "Notfallmedizin"}, {"LABO", "Laboratoriumsmedizin"}, {"NRCH", "Neurochirurgie"}, {"ARBE", "Arbeitsmedizin"},
}

// professionals are the kinds of people that the generator makes, by weight.
var professionals = []struct {
	weight          int
	oid, titles     string
	prefix          string
	withSpecialties bool
}{
	{14, certificate.Physician, "Dr. med.", "1-1.99.", true},
	{2, "1.2.276.0.76.4.31", "Dr. med. dent.", "2-1.99.", false},
	{2, "1.2.276.0.76.4.32", "", "3-1.99.", false},
	{1, "1.2.276.0.76.4.46", "", "4-1.99.", false},
	{2, "1.2.276.0.76.4.234", "", "9-1.99.", false},
	{1, "1.2.276.0.76.4.235", "", "9-2.99.", false},
}

// organisations are the kinds of institutions that the generator makes, by weight; %s is a family name, a street or a town.
var organisations = []struct {
	weight      int
	oid, prefix string
	names       []string
	of          string // what stands for %s: family, street or town
	medical     bool
}{
	{8, certificate.Practice, "1-2.99.", []string{"Praxis Dr. %s", "Gemeinschaftspraxis Dr. %s", "Hausarztpraxis %s", "Facharztpraxis %s"}, "family", true},
	{2, certificate.Hospital, "5-2.99.", []string{"Klinikum %s", "St.-Elisabeth-Krankenhaus %s", "Evangelisches Krankenhaus %s", "Städtisches Krankenhaus %s"}, "town", true},
	{4, certificate.Pharmacy, "3-2.99.", []string{"Apotheke %s", "Stern-Apotheke %s", "Löwen-Apotheke %s", "Apotheke am Markt %s"}, "town", false},
	{3, certificate.Care, "9-3.99.", []string{"Pflegedienst %s", "Ambulante Pflege %s", "Seniorenzentrum %s"}, "family", false},
	{2, "1.2.276.0.76.4.51", "2-2.99.", []string{"Zahnarztpraxis Dr. %s", "Zahnärzte %s"}, "family", false},
	{1, "1.2.276.0.76.4.247", "9-4.99.", []string{"Physiotherapie %s"}, "street", false},
}
