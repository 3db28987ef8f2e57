// SPDX-License-Identifier: Apache-2.0

package idp

import (
	"errors"

	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/trust"
)

// message is what a person is told, in both languages of the screens.
type message struct{ de, en string }

// checkMessages are for cards whose certificate failed a check.
var checkMessages = map[certificate.Check]message{
	certificate.ValidityCheck:  {"Die Karte ist abgelaufen oder noch nicht gültig. Bestellen Sie bei Ihrem Kartenherausgeber eine neue.", "The card has expired or is not valid yet. Order a new one from its issuer."},
	certificate.TypeCheck:      {"Diese Karte ist zum Anmelden nicht gemacht. Nehmen Sie Ihren Heilberufsausweis oder die Institutionskarte.", "This card is not made for signing in. Use your health professional card or your institution's card."},
	certificate.AdmissionCheck: {"Auf der Karte steht kein Beruf und keine Telematik-ID. Fragen Sie Ihren Kartenherausgeber.", "The card names no profession and no Telematik-ID. Ask its issuer."},
	certificate.ChainCheck:     {"Diese Karte gehört nicht zu diesem Netz. Testkarten gelten nur in Testnetzen.", "This card does not belong to this network. Test cards count in test networks only."},
}

// codeMessages are for what else the provider refuses.
var codeMessages = map[int]message{
	2020: {"Das AUT-Zertifikat ist ungültig: Die Karte ist gesperrt, abgelaufen oder gehört nicht zu diesem Netz. Fragen Sie Ihren Kartenherausgeber.",
		"The AUT certificate is not valid: the card is revoked, has expired or does not belong to this network. Ask its issuer."},
	2013: {"Die Signatur der Karte stimmt nicht. Stecken Sie die Karte neu und melden Sie sich noch einmal an.", "The card's signature is wrong. Insert the card again and sign in once more."},
	2030: {"Diese Anmeldung wurde schon benutzt oder kam nicht von hier. Beginnen Sie sie neu.", "This sign-in was used already or did not come from here. Begin it again."},
	2032: {"Die Anmeldung hat zu lange gedauert. Beginnen Sie sie neu.", "The sign-in took too long. Begin it again."},
	2040: {"Die Anmeldung von vorhin gilt nicht mehr. Melden Sie sich mit der Karte neu an.", "Your earlier sign-in does not count any more. Sign in with the card again."},
	1022: {"Mit dieser Karte kann man sich hier nicht anmelden.", "This card cannot sign in here."},
	3005: {"Die Anmeldung wurde schon benutzt oder hat zu lange gedauert. Beginnen Sie sie neu.", "The sign-in was used already or took too long. Begin it again."},
}

// causes are for errors that have no code of the provider, the most special first.
var causes = []struct {
	err error
	message
}{
	{trust.ErrRevoked, message{"Die Karte ist gesperrt. Wenn das falsch ist, fragen Sie Ihren Kartenherausgeber.", "The card is revoked. If that is wrong, ask its issuer."}},
	{trust.ErrUnreachable, message{"Ob die Karte gesperrt ist, lässt sich gerade nicht prüfen. Versuchen Sie es in einigen Minuten noch einmal.", "Whether the card is revoked cannot be checked now. Try again in a few minutes."}},
	{card.ErrBlocked, message{"Die PIN der Karte ist gesperrt. Entsperren Sie sie mit Ihrer PUK.", "The card's PIN is blocked. Unblock it with your PUK."}},
	{ErrAddress, message{"Die Anfrage kam nicht von Ihrer Anmeldestelle. Es wurde nichts unterschrieben.", "The request did not come from your identity provider. Nothing was signed."}},
	{ErrAudience, message{"Die Anmeldung war für eine andere Stelle bestimmt und wurde abgewiesen.", "The sign-in was meant for somebody else and was refused."}},
	{ErrClock, message{"Die Uhr dieses Rechners und die der Anmeldestelle gehen auseinander. Stellen Sie die Uhr und versuchen Sie es noch einmal.", "The clocks of this computer and of the identity provider differ. Set the clock and try again."}},
	{ErrNonceReply, message{"Die Antwort gehört zu einer anderen Anmeldung. Beginnen Sie sie neu.", "The answer belongs to another sign-in. Begin it again."}},
	{ErrProvider, message{"Die Antwort der Anmeldestelle ist nicht echt oder unvollständig. Sie wurden nicht angemeldet.", "The identity provider's answer is not genuine or not complete. You have not been signed in."}},
}

var (
	revokedMessage = message{"Die Karte wird nicht mehr angenommen. Fragen Sie Ihren Kartenherausgeber, ob sie gesperrt ist.", "The card is not accepted any more. Ask its issuer whether it was revoked."}
	anyMessage     = message{"Die Anmeldung mit der Karte hat nicht geklappt. Versuchen Sie es noch einmal.", "Signing in with the card did not work. Try again."}
)

// Message tells a person what went wrong with a sign-in by card and what to do, in German ("de") or English.
func Message(err error, language string) string {
	m := messageOf(err)
	if language == "de" {
		return m.de
	}
	return m.en
}

func messageOf(err error) message {
	for _, c := range causes {
		if errors.Is(err, c.err) {
			return c.message
		}
	}
	if failed, ok := errors.AsType[*certificate.CheckError](err); ok {
		if failed.Check == certificate.RevocationCheck {
			return revokedMessage
		}
		if m, ok := checkMessages[failed.Check]; ok {
			return m
		}
	}
	if refused, ok := errors.AsType[*Error](err); ok {
		if m, ok := codeMessages[refused.Code]; ok {
			return m
		}
	}
	return anyMessage
}
