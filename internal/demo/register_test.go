// SPDX-License-Identifier: Apache-2.0

package demo_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/browser"
	"github.com/konsil-health/konsil/internal/demo"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/telematik/directory"
)

// TestRegister is what the demo's page proposes: the practice without a messenger registers with the card that lies in the card service, adds somebody and
// enters her in the directory.
//
// Requirements: AF_10103, AF_10060, AF_10059.
func TestRegister(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	n, err := demo.Start(ctx, demo.Options{Folder: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	b := browser.New("de")
	defer b.Close()
	page, err := b.Open(ctx, n.URL+"/")
	step := func(what string) {
		t.Helper()
		if err != nil || page.Status != 200 {
			t.Fatalf("%s: %v\n%+v", what, err, page)
		}
	}
	step("the demo's page")
	page, err = page.Follow(ctx, "/console/register")
	step("the registration")
	page, err = page.Press(ctx, "card")
	step("the card")
	page, err = page.Follow(ctx, n.Agent)
	step("the card service")
	page, err = page.Press(ctx, "", "card", page.Choice(demo.Newcomer.Name), "pin", demo.PIN)
	step("the PIN")
	page, err = page.Press(ctx, "terms", "accept", "yes")
	step("the terms")
	found := regexp.MustCompile(`[A-Z2-7]{4}( [A-Z2-7]{4}){7}`).FindString(page.Text)
	code, codeErr := account.TOTPCode(strings.ReplaceAll(found, " ", ""), time.Now())
	if codeErr != nil {
		t.Fatalf("no secret on the page (%v): %s", codeErr, page.Text)
	}
	const password = "ein-langes-Passwort-41"
	page, err = page.Press(ctx, "admin", "login", "leitung", "password", password, "repeat", password, "code", code)
	step("the administrator")
	page, err = page.Press(ctx, "order", "label", "praxis-am-see")
	step("the order")
	if !strings.Contains(page.Text, demo.Newcomer.Name) {
		t.Fatalf("no console: %s", page.Text)
	}
	page, err = page.Press(ctx, "Hinzufügen", "login", "lena.seidel", "name", "Dr. Lena Seidel")
	step("a person")
	page, err = b.Open(ctx, n.URL+"/console/directory")
	step("the directory")
	lena := id.User(page.Option("Lena Seidel"))
	page, err = page.Press(ctx, "enter", "user", string(lena), "name", "Dr. Lena Seidel", "kind", "tim")
	step("her entry")
	found, err = n.Central.Directory.Store().WhereIs(ctx, lena)
	if err != nil || found != directory.InOrganizations {
		t.Errorf("the directory has %s as %q, %v", lena, found, err)
	}
	if listed, insurance, err := n.Central.List.Member(ctx, demo.Newcomer.Server); err != nil || !listed || insurance {
		t.Errorf("on the federation list: %v, as an insurer: %v, %v", listed, insurance, err)
	}
}
