// SPDX-License-Identifier: Apache-2.0

package fhir

import (
	"slices"
	"strings"
	"sync"
)

const directorySystem = "https://gematik.de/fhir/directory/CodeSystem/"

// codeTable holds the code systems that the directory's profiles bind to: a system and its codes a line ("dir:" stands for directorySystem). The
// package de.gematik.fhir.directory 1.2.0 publishes them; the last one is of HL7. A test compares it with the published files.
const codeTable = `
dir:EndpointDirectoryConnectionType tim tim-fa tim-bot kim epa-supported ident-eingangsabruf apotheken-identverfahren eRP-onPremise eRP-delivery eRP-shipment eRP-availability terminbuchung-online terminbuchung-telefonisch terminbuchung-tim
dir:EndpointDirectoryKIMappTags 1ClickAbrechnung 1ClickHybridDRG ArTest BMP DALE-UV DiMus eRezept Arztbrief eAU EBZ eDMP eDokumentation-QSHLT eDokumentation-QSKE eDokumentation-QSMG eDokumentation-QSHGV eDokumentation-QSHGVK eHKS eEB GKH-AAR EVP eNachricht KZVAbr LDT-Auftrag LDT-Befund MDN MIO NDP2GO DIVI-Notfalleinsatzprotokoll PFL QSPB U-Teilnahme Selbsttest Vitalzeichen Vorsorgeplaner
dir:EndpointDirectoryPayloadType tim-chat
dir:EndpointVisibilityCS hide-versicherte
dir:HealthcareServiceSpecialtyCS impfung koerperwerte allergietest reisemedizin-beratung
dir:HolderCS aeksh aekhh aekn aekhb aeknr aekwl laekh baeknordwuert baeksuedwuert baeknordbaden baeksuedba blaek aekb aekmv laekbb aeksa laekt slaek baekrheinhessen baekpfalz baektrier baekkoblenz baek kvsh kvhh kvhb kvn kvwl kvno kvh kvrlp kvbw kvb kvbe kvsl kvmv kvbb kvsa kvt kvs lzkbw blzaek zaekbe lzkbb zaekhb zaekhh lzkh zaekmv zaekn zaeknr lzkrlp zaeksaar lzaeks zaeksa zaeksh lzkth zaekwl bzaek kzvbw kzvn kzvrlp kzvba kzvnr kzvh kzvb kzvhb kzvhh kzvsl kzvsh kzvwl kzvmv kzvlb kzvsa kzvt kzvs kzbv lakbw blak akb lakbb akhb akhh lakh akmv akn aknr lakrlp aksl aksa slak aksh lakt akwl bak ngda ptksh ptkhh ptkn lptkbr ptknrw ptkh lpkrlp lpkbw ptkba ptks ptkb optk dtrust dktig dtsg gkv shc egbr gemmon gematik dgns
dir:KimVersionCS 1.0 1.5 2.0
dir:OpeningTimeQualifierCS notdienst sonderoeffnung
dir:OrganizationVisibilityCS hide-versicherte
dir:Origin ldap owner apo
dir:PharmacyHealthcareSpecialtyCS 10 20 30 40 50 60 70 80 90 100
dir:PharmacyTypeCS offizin-apotheke krankenhausversorgende-apotheke bundeswehrapotheke heimversorgende-apotheke versandapotheke sterilherstellung
dir:PharmacyTypeLDAPCS 10 20 30 40 50
dir:Region Baden-Württemberg Bayern Berlin Brandenburg Bremen Hamburg Hessen Mecklenburg-Vorpommern Niedersachsen Nordrhein-Westfalen Rheinland-Pfalz Saarland Sachsen Sachsen-Anhalt Schleswig-Holstein Thüringen Nordrhein Westfalen-Lippe
dir:ResourceTag fdv-relevant
dir:VZDHealthCareServiceCharacteristicsCS terminbuchung
urn:oid:1.3.6.1.4.1.19376.3.276.1.5.4 ALLG ANAE ARBE AUGE CHIR ALCH GFCH HZCH KDCH ORTH PLCH THCH UNFC VICH FRAU GEND GONK PERI GERI HNOH HRST HAUT HUMA HYGI INNE ANGI ENDO GAST HAEM KARD NEPH PNEU RHEU INTM INTZ INTO INTS TRPL SELT KIJU KONK KKAR NNAT NPAE KPSY LABO MIKR MKGC NATU NOTF NRCH NEUR NUKL GESU PALL PATH NPAT PHAR TOXI REHA PSYC FPSY PSYM RADI KRAD NRAD RECH SCHL SPOR STRA TRAN TROP UROL MZKH ORAL KIEF PARO
urn:oid:1.3.6.1.4.1.19376.3.276.1.5.5 ERG ERN FOR PFL ALT KIN PAT PHZ POD PRV SOZ SPR VKO VER PST
dir:physicalFeatures parkmoeglichkeit oepnv barrierefrei abholautomat
urn:oid:1.2.276.0.76.5.494 MZAH ZGES
http://terminology.hl7.org/CodeSystem/endpoint-connection-type ihe-xcpd ihe-xca ihe-xdr ihe-xds ihe-iid dicom-wado-rs dicom-qido-rs dicom-stow-rs dicom-wado-uri hl7-fhir-rest hl7-fhir-msg hl7v2-mllp secure-email direct-project
`

// valueSetTable holds the value sets of the required bindings: a name and its systems a line; "system#a,b" takes some codes of a system only.
const valueSetTable = `
OriginVS dir:Origin
AddressStateVS dir:Region
EndpointConnectionTypeVS dir:EndpointDirectoryConnectionType http://terminology.hl7.org/CodeSystem/endpoint-connection-type
EndpointPayloadTypeVS dir:EndpointDirectoryPayloadType dir:EndpointDirectoryKIMappTags http://terminology.hl7.org/CodeSystem/data-absent-reason#not-applicable
EndpointVisibilityVS dir:EndpointVisibilityCS
OrganizationVisibilityVS dir:OrganizationVisibilityCS
KimVersionVS dir:KimVersionCS
OpeningTimeQualifierVS dir:OpeningTimeQualifierCS
HealthcareServiceTypeVS urn:oid:1.3.6.1.4.1.19376.3.276.1.5.4 urn:oid:1.2.276.0.76.5.494 urn:oid:1.3.6.1.4.1.19376.3.276.1.5.5 dir:PharmacyTypeCS
HealthcareSpecialtyTypeVS dir:PharmacyHealthcareSpecialtyCS dir:HealthcareServiceSpecialtyCS http://loinc.org#60591-5,57833-6
healthcare-service-category-codes dir:OrganizationProfessionOID#1.2.276.0.76.4.292
PhysicalFeaturesHealthCareServiceVS dir:physicalFeatures
healthcareservice-technical-characteristic-vs dir:VZDHealthCareServiceCharacteristicsCS
`

func expandSystem(s string) string {
	if name, ok := strings.CutPrefix(s, "dir:"); ok {
		return directorySystem + name
	}
	return s
}

// codeSystems are the tables of codes, read once: system → codes.
var codeSystems = sync.OnceValue(func() map[string][]string {
	all := map[string][]string{}
	for line := range strings.Lines(codeTable) {
		if fields := strings.Fields(line); len(fields) > 0 {
			all[expandSystem(fields[0])] = fields[1:]
		}
	}
	return all
})

// valueSets are the value sets, read once: name → system → codes.
var valueSets = sync.OnceValue(func() map[string]map[string][]string {
	all := map[string]map[string][]string{}
	for line := range strings.Lines(valueSetTable) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		set := map[string][]string{}
		for _, f := range fields[1:] {
			system, some, restricted := strings.Cut(f, "#")
			system = expandSystem(system)
			if restricted {
				set[system] = strings.Split(some, ",")
			} else {
				set[system] = codeSystems()[system]
			}
		}
		all[fields[0]] = set
	}
	return all
})

// Codes returns the codes of a value set by its name in the directory's package, by system; nil for a name that is none.
func Codes(valueSet string) map[string][]string { return valueSets()[valueSet] }

// inSet says whether a code of a system belongs to a value set.
func inSet(set, system, code string) bool { return slices.Contains(valueSets()[set][system], code) }
