// SPDX-License-Identifier: Apache-2.0

package registration_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/mail"
	"github.com/konsil-health/konsil/internal/foundation/mail/mailtest"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/telematik/directory"
	"github.com/konsil-health/konsil/internal/telematik/registration"
)

// TestKIMLinks: a link proves once, for a day, an organisation that is active; nobody fills a mailbox with them.
func TestKIMLinks(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		n, sink := newNetwork(t, db), mailtest.New(t)
		sender, err := mail.New(mail.Config{Server: sink.Address, From: "konsil@provider.kim.telematik", Encryption: mail.None})
		if err != nil {
			t.Fatal(err)
		}
		service := n.provider(func(o *registration.Options) {
			o.SendMail = sender.Send
			o.Contact = func(_ context.Context, id string) (registration.Contact, bool, error) {
				who := registration.Organisation{TelematikID: id, Profession: certificate.Practice, Name: "Praxis Sonnenallee"}
				return registration.Contact{Organisation: who, Address: "praxis@kim.example"}, strings.HasPrefix(id, "1-2."), nil
			}
		})
		send := func(id string) {
			t.Helper()
			if err := service.SendLink(t.Context(), id, func(link string) (string, string) { return "Anmeldung", link }); err != nil {
				t.Fatal(err)
			}
		}
		next := func() string { return strings.TrimSpace(sink.Next(t).Text) }
		send("1-2.1")
		link := next()
		who, err := service.Link(t.Context(), link)
		if err != nil || who.TelematikID != "1-2.1" || who.Profession != certificate.Practice || who.Proved != start.UnixMilli() {
			t.Errorf("%+v %v", who, err)
		}
		// once, also when two take it at the same time
		var group sync.WaitGroup
		errs := make([]error, 4)
		for i := range errs {
			group.Go(func() { _, errs[i] = service.TakeLink(t.Context(), link) })
		}
		group.Wait()
		taken := 0
		for _, err := range errs {
			if err == nil {
				taken++
			} else if !errors.Is(err, registration.ErrLink) {
				t.Error(err)
			}
		}
		if taken != 1 {
			t.Errorf("taken %d times", taken)
		}
		// nothing goes to who is not active, or not in the directory
		send("1-2.9")
		send("2-x")
		sink.None(t)
		// for a day, and not more than five at a time
		for range 7 {
			send("1-2.1")
		}
		for range 5 {
			link = next()
		}
		sink.None(t)
		send("1-2.2")
		next()
		n.now = n.now.Add(24*time.Hour - time.Millisecond)
		if _, err := service.Link(t.Context(), link); err != nil {
			t.Error(err)
		}
		n.now = n.now.Add(2 * time.Millisecond)
		if _, err := service.TakeLink(t.Context(), link); !errors.Is(err, registration.ErrLink) {
			t.Errorf("after a day: %v", err)
		}
		send("1-2.1")
		link = next()
		// an organisation that left in between orders nothing by its link
		n.enter(directory.Institution{TelematikID: "1-2.1", Name: "Praxis Sonnenallee", ProfessionOID: certificate.Practice, Inactive: true})
		if who, err = service.TakeLink(t.Context(), link); err != nil {
			t.Fatal(err)
		}
		if _, err := service.CompleteFor(t.Context(), who, registration.Order{ServerName: "praxis.example"}); !errors.Is(err, registration.ErrInactive) {
			t.Error(err)
		}
	})
}
