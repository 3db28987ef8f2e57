// SPDX-License-Identifier: Apache-2.0

package console

import (
	"archive/zip"
	"context"
	"encoding/csv"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/telematik/registration"
)

type contractData struct {
	TelematikID string
	Server      string
	Insurance   bool
	Inactive    registration.Inactivity
	People      int64
}

func (s *Service) showContract(v *view) error {
	ctx, t := v.r.Context(), v.session.tenant
	d := contractData{TelematikID: t.TelematikID, Server: string(t.Name), Insurance: t.Insurance}
	var err error
	if d.Inactive, err = s.o.Registration.Inactivity(ctx, t.ID); err != nil {
		return err
	}
	if _, d.People, err = s.o.Accounts.Search(ctx, t.ID, account.Search{Locked: true, Limit: 1}); err != nil {
		return err
	}
	return v.show("contract", v.session.cookie, d)
}

// doContract ends the contract: the domain goes off the federation list first, so that nobody writes any more, then people and addresses go, and
// the tenant closes. The name is never given again. The administrator who ends it is the last to go; a repeated end finishes a half-done one.
func (s *Service) doContract(v *view) error {
	ctx, t := v.r.Context(), v.session.tenant
	if v.form("confirm") != string(t.Name) {
		v.again(http.StatusBadRequest, "confirm_differs")
		return s.showContract(v)
	}
	if err := s.o.Registration.End(ctx, t.Name); err != nil {
		return err
	}
	if err := v.noted("contract_ended", string(t.Name), ""); err != nil {
		return err
	}
	if err := s.endAll(ctx, t, v.session); err != nil {
		return err
	}
	v.setCookie(sessionCookie, "")
	v.session = nil
	return v.show("ended", "", string(t.Name))
}

func (s *Service) endAll(ctx context.Context, t *tenant.Tenant, last *session) error {
	for {
		people, _, err := s.o.Accounts.Search(ctx, t.ID, account.Search{Guests: true, Locked: true, Limit: maxPeople})
		if err != nil {
			return err
		}
		ended := 0
		for i := range people {
			if people[i].User == last.user {
				continue
			}
			if err := s.end(ctx, t, people[i].User); err != nil {
				return err
			}
			ended++
		}
		if ended == 0 {
			break
		}
	}
	for _, table := range []string{"DELETE FROM organisation_setting WHERE tenant = $1", "DELETE FROM scim_credential WHERE tenant = $1"} {
		if _, err := s.db.Exec(ctx, table, int64(t.ID)); err != nil {
			return err
		}
	}
	if err := s.o.Accounts.SetSupport(ctx, t.ID, account.Support{}); err != nil {
		return err
	}
	if err := s.end(ctx, t, last.user); err != nil {
		return err
	}
	return s.o.Tenants.SetState(ctx, t, tenant.Closing)
}

// export sends what the organisation takes along: people, addresses in the directory, settings, the log. Messages are end-to-end encrypted: who wants
// them exports them with the own app.
func (s *Service) export(v *view) error {
	ctx, t := v.r.Context(), v.session.tenant
	people, _, err := s.o.Accounts.Search(ctx, t.ID, account.Search{Deactivated: true, Guests: true, Locked: true, Limit: 100_000})
	if err != nil {
		return err
	}
	lines, err := s.log(ctx, t.ID, 1_000_000)
	if err != nil {
		return err
	}
	var addresses []registration.Address
	owner, err := s.owner(ctx, t)
	if err == nil && owner != nil {
		addresses, err = owner.Addresses(ctx)
	}
	if err != nil && !errors.Is(err, registration.ErrDirectory) {
		return err
	}
	support, err := s.o.Accounts.Support(ctx, t.ID)
	if err != nil {
		return err
	}
	if err := v.noted("exported", "", ""); err != nil {
		return err
	}
	v.header()
	v.w.Header().Set("Content-Type", "application/zip")
	v.w.Header().Set("Content-Disposition", `attachment; filename="`+string(t.Name)+`.zip"`)
	z := zip.NewWriter(v.w)
	err = errors.Join(
		table(z, "people.csv", []string{"user_id", "login", "name", "admin", "ended", "created"}, len(people), func(i int) []string {
			p := &people[i]
			return []string{string(p.User), p.LoginName, p.DisplayName, strconv.FormatBool(p.Admin), strconv.FormatBool(p.Deactivated), stamp(p.Created)}
		}),
		table(z, "log.csv", []string{"time", "who", "what", "about", "detail"}, len(lines), func(i int) []string {
			e := lines[i]
			return []string{stamp(e.At), e.Actor, e.Action[len("did_"):], e.Target, e.Detail}
		}),
		table(z, "directory.csv", []string{"user_id", "name", "kind"}, len(addresses), func(i int) []string {
			a := addresses[i]
			return []string{string(a.User), a.Name, a.Kind}
		}),
		object(z, "settings.json", map[string]any{"support": support, "server": t.Name, "telematik_id": t.TelematikID}),
		z.Close())
	if err != nil {
		s.o.Log.Warn("console: export broke off", "error", err) // the header has gone out
	}
	return nil
}

func stamp(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }

// table writes a file of cells that a spreadsheet can open.
func table(z *zip.Writer, name string, head []string, n int, line func(int) []string) error {
	f, err := z.Create(name)
	if err != nil {
		return err
	}
	w := csv.NewWriter(f)
	_ = w.Write(head) // errors are kept until Flush
	for i := range n {
		cells := line(i)
		for c := range cells {
			cells[c] = guardCell(cells[c])
		}
		_ = w.Write(cells)
	}
	w.Flush()
	return w.Error()
}

func object(z *zip.Writer, name string, v any) error {
	var f io.Writer
	f, err := z.Create(name)
	if err != nil {
		return err
	}
	return json.MarshalWrite(f, v, json.Deterministic(true))
}
