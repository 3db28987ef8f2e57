// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/telematik/directory"
)

// Password is everybody's password in the demonstration, PIN every card's.
const (
	Password = "Konsil-Demo-2026"
	PIN      = "123456"
)

// InsurerIK is the number of the demonstration's health insurer.
const InsurerIK = "109500969"

// Organisation is an institution of the demonstration.
type Organisation struct {
	Server      id.Server
	Name        string
	TelematikID string
	Profession  string // OID
	// Provider is 0 or 1: which of the two hosts it.
	Provider  int
	Insurance bool
	Street    string
	Town      int // index in directory.Places
	People    []Person
}

// Person is somebody with an account.
type Person struct {
	Prefix, Given, Family string
	// TelematikID and Profession are empty for people without a health professional card.
	TelematikID, Profession string
	Specialty               string // code of directory.Specialties
	// Role is what people read beside the name.
	Role string
	// KVNR makes an insured person.
	KVNR string
}

// Login is what the person types to sign in: given and family name, or the KVNR.
func (p Person) Login() string {
	if p.KVNR != "" {
		return p.KVNR
	}
	return fold(p.Given) + "." + fold(p.Family)
}

// DisplayName is "Family, Given", as the profile wants it.
func (p Person) DisplayName() string { return p.Family + ", " + p.Given }

// Title is the name as people say it.
func (p Person) Title() string {
	if p.Prefix == "" {
		return p.Given + " " + p.Family
	}
	return p.Prefix + " " + p.Given + " " + p.Family
}

// Providers are the names of the two providers.
var Providers = [2]string{"Kolibri", "Milan"}

const (
	physician, dentist, pharmacist, technician = certificate.Physician, "1.2.276.0.76.4.31", "1.2.276.0.76.4.32", "1.2.276.0.76.4.35"
	therapist, nurse, physio                   = "1.2.276.0.76.4.45", "1.2.276.0.76.4.234", "1.2.276.0.76.4.236"
)

func doctor(given, family, number, specialty, role string) Person {
	return Person{Prefix: "Dr. med.", Given: given, Family: family, TelematikID: "1-1.58." + number, Profession: physician, Specialty: specialty, Role: role}
}

// Cast is who takes part: institutions of both providers with their people.
var Cast = []Organisation{
	{Server: "praxis-sonnenallee.localhost", Name: "Hausarztpraxis Sonnenallee", TelematikID: "1-2.58.00000040", Profession: certificate.Practice, Provider: 0, Street: "Sonnenallee 112", Town: 1, People: []Person{
		doctor("Anna", "Weber", "00000001", "ALLG", "Hausärztin"),
		doctor("Murat", "Yıldız", "00000002", "ALLG", "Hausarzt"),
		{Given: "Sabine", Family: "Krüger", Role: "Medizinische Fachangestellte"},
		{Given: "Jonas", Family: "Lehmann", Role: "Medizinischer Fachangestellter"},
	}},
	{Server: "zahnarzt-mitte.localhost", Name: "Zahnarztpraxis Mitte", TelematikID: "2-2.58.00000041", Profession: "1.2.276.0.76.4.51", Provider: 0, Street: "Rosenthaler Straße 8", Town: 0, People: []Person{
		{Prefix: "Dr. med. dent.", Given: "Julia", Family: "Roth", TelematikID: "2-1.58.00000003", Profession: dentist, Role: "Zahnärztin"},
		{Given: "Felix", Family: "Engel", Role: "Zahnmedizinischer Fachangestellter"},
	}},
	{Server: "apotheke-lindenhof.localhost", Name: "Lindenhof-Apotheke", TelematikID: "3-07.2.0000000042", Profession: certificate.Pharmacy, Provider: 0, Street: "Kantstraße 54", Town: 2, People: []Person{
		{Given: "Petra", Family: "Schulz", TelematikID: "3-07.1.0000000004", Profession: pharmacist, Role: "Apothekerin"},
		{Given: "Leyla", Family: "Demir", TelematikID: "3-07.1.0000000005", Profession: pharmacist, Role: "Apothekerin"},
		{Given: "Tim", Family: "Neumann", TelematikID: "3-07.1.0000000006", Profession: technician, Role: "PTA"},
	}},
	{Server: "pflege-abendrot.localhost", Name: "Pflegedienst Abendrot", TelematikID: "5-2.58.00000043", Profession: certificate.Care, Provider: 0, Street: "Am Kanal 3", Town: 43, People: []Person{
		{Given: "Katrin", Family: "Wolf", TelematikID: "5-1.58.00000007", Profession: nurse, Role: "Pflegefachfrau"},
		{Given: "Andrzej", Family: "Nowak", TelematikID: "5-1.58.00000008", Profession: nurse, Role: "Pflegefachmann"},
		{Given: "Miriam", Family: "Becker", Role: "Pflegedienstleitung"},
	}},
	{Server: "klinikum-nord.localhost", Name: "Klinikum Nord", TelematikID: "5-2.02.00000050", Profession: certificate.Hospital, Provider: 1, Street: "Tangstedter Weg 200", Town: 4, People: []Person{
		doctor("Ben", "Hoffmann", "00000011", "KARD", "Oberarzt Kardiologie"),
		doctor("Clara", "Fischer", "00000012", "INNE", "Oberärztin Innere Medizin"),
		doctor("Elif", "Kaya", "00000013", "NOTF", "Notaufnahme"),
		doctor("Henrik", "Petersen", "00000014", "CHIR", "Chefarzt Chirurgie"),
		doctor("Yara", "Haddad", "00000015", "NEUR", "Neurologie, Stroke Unit"),
		{Given: "Ingrid", Family: "Vogel", TelematikID: "5-1.02.00000016", Profession: nurse, Role: "Stationsleitung 4B"},
		{Given: "Oskar", Family: "Brandt", Role: "Entlassmanagement"},
	}},
	{Server: "kardio-elbe.localhost", Name: "Kardiologie an der Elbe", TelematikID: "1-2.02.00000051", Profession: certificate.Practice, Provider: 1, Street: "Elbchaussee 17", Town: 5, People: []Person{
		doctor("Friederike", "Lange", "00000017", "KARD", "Kardiologin"),
		doctor("Stefan", "Albrecht", "00000018", "KARD", "Kardiologe"),
		{Given: "Meike", Family: "Lorenz", Role: "Medizinische Fachangestellte"},
	}},
	{Server: "psychotherapie-hafen.localhost", Name: "Psychotherapie am Hafen", TelematikID: "4-2.04.00000052", Profession: "1.2.276.0.76.4.52", Provider: 1, Street: "Speicherhof 2", Town: 15, People: []Person{
		{Prefix: "Dipl.-Psych.", Given: "Nadine", Family: "Sommer", TelematikID: "4-1.04.00000019", Profession: therapist, Role: "Psychotherapeutin"},
	}},
	{Server: "reha-seeblick.localhost", Name: "Rehaklinik Seeblick", TelematikID: "5-2.01.00000053", Profession: "1.2.276.0.76.4.257", Provider: 1, Street: "Strandallee 9", Town: 37, People: []Person{
		{Given: "Martina", Family: "Koch", TelematikID: "5-1.01.00000020", Profession: physio, Role: "Physiotherapeutin"},
		doctor("Paul", "Richter", "00000021", "ORTH", "Orthopädie"),
	}},
	{Server: "kasse-nordlicht.localhost", Name: "Nordlicht Krankenkasse", TelematikID: "8-01.0000000060", Profession: certificate.Insurer, Provider: 1, Insurance: true, Street: "Ballindamm 1", Town: 4, People: []Person{
		{Given: "Max", Family: "Schneider", KVNR: "X110411675", Role: "Versicherter"},
		{Given: "Erika", Family: "Zimmermann", KVNR: "A123457890", Role: "Versicherte"},
		{Given: "Deniz", Family: "Arslan", KVNR: "D234568901", Role: "Versicherter"},
		{Given: "Ursula", Family: "Hartmann", KVNR: "U345679012", Role: "Versicherte"},
		{Given: "Leon", Family: "Kaiser", KVNR: "K456780123", Role: "Versicherter"},
	}},
}

// Newcomer is the institution that registers itself with its SMC-B at the second provider: active in the directory, card in hand, no messenger yet.
var Newcomer = Organisation{Server: "praxis-am-see.localhost", Name: "Praxis am See", TelematikID: "1-2.13.00000070", Profession: certificate.Practice, Provider: 1,
	Street: "Seestraße 5", Town: 55, People: []Person{doctor("Lena", "Seidel", "00000071", "KARD", "Kardiologin")}}

// Stranger is a Matrix server that is not on the federation list.
const Stranger = id.Server("fremder-server.localhost")

func specialties(code string) []directory.Concept {
	for _, c := range directory.Specialties {
		if c.Code == code {
			return []directory.Concept{c}
		}
	}
	return nil
}

// entry is the organisation as card issuers put it into the directory.
func (o Organisation) entry() directory.Institution {
	i := directory.Institution{TelematikID: o.TelematikID, Name: o.Name, ProfessionOID: o.Profession, Street: o.Street, Place: directory.Places[o.Town]}
	for _, p := range o.People {
		if p.Specialty != "" && len(i.Specialties) == 0 {
			i.Specialties = specialties(p.Specialty)
		}
	}
	return i
}

// entry is the person as card issuers put it into the directory.
func (p Person) entry(o Organisation) directory.Person {
	return directory.Person{TelematikID: p.TelematikID, Prefix: p.Prefix, GivenName: p.Given, FamilyName: p.Family, ProfessionOID: p.Profession,
		Specialties: specialties(p.Specialty), Street: o.Street, Place: directory.Places[o.Town]}
}

// fold writes a name in the letters a to z.
func fold(s string) string {
	out := make([]byte, 0, len(s))
	for _, r := range s {
		switch {
		case r >= 'A' && r <= 'Z':
			out = append(out, byte(r-'A'+'a'))
		case r >= 'a' && r <= 'z':
			out = append(out, byte(r))
		default:
			out = append(out, folded[r]...)
		}
	}
	return string(out)
}

var folded = map[rune]string{'ä': "ae", 'ö': "oe", 'ü': "ue", 'Ä': "ae", 'Ö': "oe", 'Ü': "ue", 'ß': "ss", 'ı': "i", 'İ': "i", 'ş': "s", 'ğ': "g", 'ç': "c", 'é': "e"}
