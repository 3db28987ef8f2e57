// SPDX-License-Identifier: Apache-2.0

package mail_test

import (
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/mail"
	"github.com/konsil-health/konsil/internal/foundation/mail/mailtest"
)

func TestSend(t *testing.T) {
	t.Parallel()
	sink := mailtest.New(t)
	s, err := mail.New(mail.Config{Server: sink.Address, From: "Konsil <no-reply@praxis.test>", Encryption: mail.None})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(t.Context(), "anna@praxis.test", "Bestätigen", "Grüße\n.\nhttps://praxis.test/?a=b&c=d"); err != nil {
		t.Fatal(err)
	}
	m := sink.Next(t)
	if m.From != "no-reply@praxis.test" || m.To != "anna@praxis.test" || m.Subject != "Bestätigen" || !strings.Contains(m.Text, "Grüße\r\n.\r\nhttps://praxis.test/?a=b&c=d") {
		t.Errorf("%+v", m)
	}
	if err := s.Send(t.Context(), "anna@praxis.test\r\nBcc: other@praxis.test", "x", "y"); err == nil {
		t.Error("a recipient with a line break was taken")
	}
	strict, err := mail.New(mail.Config{Server: sink.Address, From: "no-reply@praxis.test", Encryption: mail.StartTLS})
	if err != nil {
		t.Fatal(err)
	}
	if err := strict.Send(t.Context(), "anna@praxis.test", "x", "y"); err == nil {
		t.Error("a server without STARTTLS was taken")
	}
	sink.None(t)
}
