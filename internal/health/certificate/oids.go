// SPDX-License-Identifier: Apache-2.0

package certificate

import (
	"maps"
	"slices"
)

// Type is what a certificate is for, named as gematik names it. It is told by a policy of the certificate (gemSpec_OID).
type Type string

// The types that the messenger meets.
const (
	CardHolderAUT   Type = "C.CH.AUT"  // eGK: an insured person's authentication
	ProfessionalAUT Type = "C.HP.AUT"  // eHBA: a health professional's authentication
	InstitutionAUT  Type = "C.HCI.AUT" // SMC-B: an institution's authentication
	InstitutionENC  Type = "C.HCI.ENC"
	InstitutionOSIG Type = "C.HCI.OSIG"
	ProfessionalENC Type = "C.HP.ENC"
	ProfessionalQES Type = "C.HP.QES"
	ServiceSIG      Type = "C.FD.SIG" // a component's signature: federation list, identity provider, registration service
	ServiceOSIG     Type = "C.FD.OSIG"
	ServiceENC      Type = "C.FD.ENC"
	ServiceTLSC     Type = "C.FD.TLS-C"
	ServiceTLSS     Type = "C.FD.TLS-S"
)

const prefix = "1.2.276.0.76.4."

// policyOf is the policy OID that marks each type.
var policyOf = map[Type]string{
	CardHolderAUT: prefix + "70", ProfessionalQES: prefix + "72", ProfessionalENC: prefix + "74", ProfessionalAUT: prefix + "75",
	InstitutionENC: prefix + "76", InstitutionAUT: prefix + "77", InstitutionOSIG: prefix + "78",
	ServiceTLSC: prefix + "168", ServiceTLSS: prefix + "169", ServiceENC: prefix + "202", ServiceSIG: prefix + "203", ServiceOSIG: prefix + "283",
}

// typeOf is policyOf turned round.
var typeOf = func() map[string]Type {
	m := make(map[string]Type, len(policyOf))
	for t, oid := range policyOf {
		m[oid] = t
	}
	return m
}()

// policyTI is the certificate policy of the whole infrastructure (oid_policy_gem_or_cp).
const policyTI = prefix + "163"

// Roles of components and the professions that rules speak of.
const (
	RoleDirectory = prefix + "171" // oid_vzd_ti: signs the federation list
	RoleIDP       = prefix + "260" // oid_idpd
	RoleTIM       = prefix + "294" // oid_tim: a TI-Messenger provider's registration service
	Insurer       = prefix + "59"  // Kostenträger: the only institution that may order a service for insured people
	InsuredPerson = prefix + "49"
	Physician     = prefix + "30"
	Practice      = prefix + "50"
	Hospital      = prefix + "53"
	Pharmacy      = prefix + "54"
	Care          = prefix + "245"
)

// institutions names the professions that an SMC-B can carry (Tab_PKI_403).
var institutions = map[string]string{
	prefix + "50": "Betriebsstätte Arzt", prefix + "51": "Zahnarztpraxis", prefix + "52": "Betriebsstätte Psychotherapeut",
	prefix + "53": "Krankenhaus", prefix + "54": "Öffentliche Apotheke", prefix + "55": "Krankenhausapotheke", prefix + "56": "Bundeswehrapotheke",
	prefix + "57": "Betriebsstätte Mobile Einrichtung Rettungsdienst", prefix + "58": "Betriebsstätte gematik", prefix + "59": "Betriebsstätte Kostenträger",
	prefix + "187": "Betriebsstätte Leistungserbringerorganisation Kassenzahnärztliche Vereinigung", prefix + "190": "AdV-Umgebung bei Kostenträger",
	prefix + "210": "Betriebsstätte Leistungserbringerorganisation Kassenärztliche Vereinigung", prefix + "223": "Betriebsstätte GKV-Spitzenverband",
	prefix + "224": "Betriebsstätte Mitgliedsverband der Apotheker", prefix + "225": "Betriebsstätte Deutscher Apothekerverband",
	prefix + "226": "Betriebsstätte Mitgliedsverband der Krankenhäuser", prefix + "227": "Betriebsstätte DKTIG", prefix + "228": "Betriebsstätte Deutsche Krankenhausgesellschaft",
	prefix + "229": "Betriebsstätte Bundesärztekammer", prefix + "230": "Betriebsstätte Ärztekammer", prefix + "231": "Betriebsstätte Zahnärztekammer",
	prefix + "242": "Betriebsstätte Kassenärztliche Bundesvereinigung", prefix + "243": "Betriebsstätte Bundeszahnärztekammer",
	prefix + "244": "Betriebsstätte Kassenzahnärztliche Bundesvereinigung", prefix + "245": "Betriebsstätte Gesundheits-, Kranken- und Altenpflege",
	prefix + "246": "Betriebsstätte Geburtshilfe", prefix + "247": "Betriebsstätte Physiotherapie", prefix + "248": "Betriebsstätte Augenoptiker",
	prefix + "249": "Betriebsstätte Hörakustiker", prefix + "250": "Betriebsstätte Orthopädieschuhmacher", prefix + "251": "Betriebsstätte Orthopädietechniker",
	prefix + "252": "Betriebsstätte Zahntechniker", prefix + "253": "Rettungsleitstelle", prefix + "254": "Betriebsstätte Sanitätsdienst Bundeswehr",
	prefix + "255": "Betriebsstätte Öffentlicher Gesundheitsdienst", prefix + "256": "Betriebsstätte Arbeitsmedizin", prefix + "257": "Betriebsstätte Vorsorge und Rehabilitation",
	prefix + "262": "Betriebsstätte Pflegeberatung", prefix + "263": "Betriebsstätte Psychotherapeutenkammer", prefix + "264": "Betriebsstätte Bundespsychotherapeutenkammer",
	prefix + "265": "Betriebsstätte Landesapothekerkammer", prefix + "266": "Betriebsstätte Bundesapothekerkammer", prefix + "267": "Betriebsstätte elektronisches Gesundheitsberuferegister",
	prefix + "268": "Betriebsstätte Handwerkskammer", prefix + "269": "Betriebsstätte Register für Gesundheitsdaten", prefix + "270": "Betriebsstätte Abrechnungsdienstleister",
	prefix + "271": "Betriebsstätte PKV-Verband", prefix + "278": "Betriebsstätte Ergotherapie", prefix + "279": "Betriebsstätte Logopädie",
	prefix + "280": "Betriebsstätte Podologie", prefix + "281": "Betriebsstätte Ernährungstherapie", prefix + "282": "Betriebsstätte DiGA-Hersteller",
	prefix + "284": "Betriebsstätte weitere Kostenträger", prefix + "285": "Betriebsstätte weitere Organisationen des Gesundheitswesens", prefix + "286": "Betriebsstätte KIM-Anbieter",
	prefix + "292": "NCPeH-Fachdienst", prefix + "295": "Betriebsstätte TIM-Anbieter", prefix + "303": "Betriebsstätte Ombudsstelle",
	prefix + "304": "Betriebsstätte Augenoptiker und Hörakustiker", prefix + "306": "Betriebsstätte Orthopädie-Handwerk", prefix + "311": "Betriebsstätte Hilfsmittelerbringer",
	prefix + "314": "Betriebsstätte Friseur", prefix + "317": "Betriebsstätte Soziotherapie",
}

// professions names those that a person's card can carry (Tab_PKI_402).
var professions = map[string]string{
	prefix + "30": "Ärztin/Arzt", prefix + "31": "Zahnärztin/Zahnarzt", prefix + "32": "Apotheker/-in", prefix + "33": "Apothekerassistent/-in",
	prefix + "34": "Pharmazieingenieur/-in", prefix + "35": "pharmazeutisch-technische/-r Assistent/-in", prefix + "36": "pharmazeutisch-kaufmännische/-r Angestellte",
	prefix + "45": "Psychotherapeut/-in", prefix + "46": "Psychologische/-r Psychotherapeut/-in", prefix + "47": "Kinder- und Jugendlichenpsychotherapeut/-in",
	prefix + "48": "Rettungsassistent/-in", prefix + "49": "Versicherte/-r", prefix + "178": "Notfallsanitäter/-in",
	prefix + "232": "Gesundheits- und Krankenpfleger/-in", prefix + "233": "Altenpfleger/-in", prefix + "234": "Pflegefachfrau/Pflegefachmann",
	prefix + "235": "Hebamme", prefix + "236": "Physiotherapeut/-in", prefix + "237": "Augenoptiker/-in", prefix + "238": "Hörakustiker/-in",
	prefix + "239": "Orthopädieschuhmacher/-in", prefix + "240": "Orthopädietechniker/-in", prefix + "241": "Zahntechniker/-in", prefix + "274": "Ergotherapeut/-in",
	prefix + "275": "Logopäde/Logopädin", prefix + "276": "Podologe/Podologin", prefix + "277": "Diätassistent/-in",
}

var components = map[string]string{RoleDirectory: "Verzeichnisdienst-TI", RoleIDP: "IDP-Dienst", RoleTIM: "TI-Messenger-Dienst"}

// Institutions lists the professions that an SMC-B can carry, Professions those of an eHBA, by OID.
func Institutions() []string { return slices.Sorted(maps.Keys(institutions)) }

// Professions is explained at [Institutions]; insured people are none.
func Professions() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(professions)), func(oid string) bool { return oid == InsuredPerson })
}

// IsProfession says whether an eHBA can carry a profession OID.
func IsProfession(oid string) bool { return professions[oid] != "" && oid != InsuredPerson }

// IsInstitution says whether a profession OID is in the list of institutions, which alone may register a messenger (AF_10103).
func IsInstitution(oid string) bool { return institutions[oid] != "" }

// ProfessionName returns the German name of a profession, institution or component role; the OID itself where it has none here.
func ProfessionName(oid string) string {
	for _, table := range []map[string]string{professions, institutions, components} {
		if name := table[oid]; name != "" {
			return name
		}
	}
	return oid
}
