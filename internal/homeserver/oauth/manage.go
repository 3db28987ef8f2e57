// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// accountPage shows what its query's action asks for; its forms do it.
func (s *Service) accountPage(ctx context.Context, r *httpapi.Request) (any, error) {
	confirm := r.Query("action") == account.ConfirmAction
	v, reply, err := s.enter(ctx, r, entry{heading: "account_sign_in", afresh: confirm})
	if reply != nil || err != nil {
		return reply, err
	}
	v.allowProvider(ctx)
	if confirm {
		return v.confirmPage(ctx)
	}
	switch action(r.Query("action")) {
	case actionDevices:
		return v.devicesPage(ctx)
	case actionDeviceView:
		return v.devicePage(ctx, false)
	case actionDeviceDelete:
		return v.devicePage(ctx, true)
	case actionChangePassword:
		return v.passwordPage(ctx)
	case actionDeactivate:
		return v.deactivatePage(ctx)
	case actionCrossSigning:
		return v.resetPage(ctx)
	case actionDirectory:
		return v.directoryPage(ctx)
	}
	return v.profilePage(ctx)
}

// profileData is what the start page shows.
type profileData struct {
	DisplayName     string
	Saved, Password bool
	// Card is the Telematik-ID of the account's card; Connect offers to join one, Directory to say whether the directory shows the address.
	Card               string
	Connect, Directory bool
}

func (v *visit) profilePage(ctx context.Context) (any, error) {
	d := profileData{Saved: v.r.Query("saved") != "", Password: !v.s.o.Config.NoPasswords}
	if v.form.Get("do") == "displayname" {
		d.DisplayName = strings.TrimSpace(v.form.Get("displayname"))
		err := v.setDisplayName(ctx, d.DisplayName)
		if err == nil {
			return seeOther(pathAccount + "?saved=1"), nil
		}
		if mxerror.From(err) == nil {
			return nil, err
		}
		v.problem = "name_long"
		return v.page("account", d, http.StatusBadRequest), nil
	}
	link, err := v.cardOf(ctx)
	if err != nil {
		return nil, err
	}
	if v.form.Get("do") == "card-connect" && link == nil {
		return v.connectCard(ctx)
	}
	if d.Connect = link == nil && v.s.byCard(v.tenant); link != nil {
		d.Card, d.Directory = link.Number, link.Number != v.tenant.TelematikID && v.s.o.Config.Card.Directory != nil
	}
	p, err := v.s.o.Accounts.Profile(ctx, v.tenant.ID, v.account.User)
	if err != nil {
		return nil, err
	}
	if p.DisplayName != nil {
		d.DisplayName = *p.DisplayName
	}
	return v.page("account", d, http.StatusOK), nil
}

func (v *visit) setDisplayName(ctx context.Context, name string) error {
	value, err := json.Marshal(name)
	if err != nil {
		return mxerror.InvalidParam
	}
	return v.s.o.Accounts.ChangeProfileField(ctx, v.tenant, v.account.User, "displayname", value)
}

// deviceData is a device as people see it.
type deviceData struct {
	ID                              id.Device
	Name, LastSeen, Address, Client string
}

// shownTime is a moment as the language writes it, in the time zone of the server, which is named.
func (v *visit) shownTime(ms int64) string {
	if ms == 0 {
		return "–"
	}
	form := "2006-01-02 15:04 MST"
	if v.language == "de" {
		form = "02.01.2006, 15:04 MST"
	}
	return time.UnixMilli(ms).Format(form)
}

func (v *visit) deviceData(d account.Device) deviceData {
	return deviceData{ID: d.ID, Name: d.DisplayName, LastSeen: v.shownTime(d.LastSeen), Address: d.LastSeenIP}
}

func (v *visit) devicesPage(ctx context.Context) (any, error) {
	devices, err := v.s.o.Accounts.Devices(ctx, v.tenant.ID, v.account.User)
	if err != nil {
		return nil, err
	}
	var d struct{ Devices []deviceData }
	for _, device := range devices {
		d.Devices = append(d.Devices, v.deviceData(device))
	}
	return v.page("devices", d, http.StatusOK), nil
}

// devicePage shows one device, and signs it out. end begins with the question.
func (v *visit) devicePage(ctx context.Context, end bool) (any, error) {
	device := id.Device(v.r.Query("device_id"))
	devices, err := v.s.o.Accounts.Devices(ctx, v.tenant.ID, v.account.User)
	if err != nil {
		return nil, err
	}
	for _, known := range devices {
		if known.ID != device {
			continue
		}
		if v.form.Get("do") == "end" {
			if err := v.s.o.Accounts.RemoveDevices(ctx, v.tenant, v.account.User, []id.Device{device}); err != nil {
				return nil, err
			}
			return v.page("done", doneData{"end_done_title", "end_done", "?action=" + actionDevices}, http.StatusOK), nil
		}
		d := struct {
			Device deviceData
			End    bool
		}{v.deviceData(known), end}
		if d.Device.Client, err = v.clientOf(ctx, device); err != nil {
			return nil, err
		}
		return v.page("device", d, http.StatusOK), nil
	}
	return v.page("done", doneData{"device_title", "device_unknown", "?action=" + actionDevices}, http.StatusNotFound), nil
}

// clientOf names the OAuth 2.0 client that signed a device in; empty for none.
func (v *visit) clientOf(ctx context.Context, device id.Device) (string, error) {
	clientID, err := v.s.o.Accounts.DeviceClient(ctx, v.tenant.ID, v.account.User, device)
	if err != nil || clientID == "" {
		return "", err
	}
	g, err := v.s.client(ctx, v.tenant.ID, clientID)
	var unknown *failure
	if errors.As(err, &unknown) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return g.host(), nil
}

func (v *visit) passwordPage(ctx context.Context) (any, error) {
	if v.form.Get("do") != "password" {
		return v.page("password", nil, http.StatusOK), nil
	}
	var err error
	if v.form.Get("new") != v.form.Get("repeat") {
		v.problem = "not_repeated"
	} else if v.s.o.Config.NoPasswords {
		v.problem = "not_offered"
	} else if v.problem, err = v.confirmed(ctx); err != nil {
		return nil, err
	}
	if v.problem == "" {
		err = v.s.o.Accounts.ChangePassword(ctx, v.tenant, v.account.User, v.form.Get("new"), "")
		if known := mxerror.From(err); known != nil {
			v.problem = problemOf(known)
		} else if err != nil {
			return nil, err
		}
	}
	if v.problem != "" {
		return v.page("password", nil, http.StatusForbidden), nil
	}
	// All browsers are signed out now; this one has just proven itself.
	cookie, err := v.s.signBrowserIn(ctx, v.tenant.ID, v.account.User, v.cookie)
	if err != nil {
		return nil, err
	}
	v.cookie = cookie
	v.header.Add("Set-Cookie", v.s.setCookie(v.r, cookie).String())
	return v.page("done", doneData{"password_done_title", "password_done", "?"}, http.StatusOK), nil
}

func (v *visit) deactivatePage(ctx context.Context) (any, error) {
	if v.form.Get("do") != "deactivate" {
		return v.page("deactivate", nil, http.StatusOK), nil
	}
	var err error
	if strings.TrimSpace(v.form.Get("confirm")) != string(v.account.User) {
		v.problem = "deactivate_mismatch"
	} else if v.problem, err = v.confirmed(ctx); err != nil {
		return nil, err
	}
	if v.problem != "" {
		return v.page("deactivate", nil, http.StatusForbidden), nil
	}
	if err := v.s.o.Accounts.Deactivate(ctx, v.tenant, v.account.User); err != nil {
		return nil, err
	}
	if v.form.Get("erase") != "" {
		if err := v.s.o.Accounts.Erase(ctx, v.tenant, v.account.User); err != nil {
			return nil, err
		}
	}
	if err := v.s.EndBrowsers(ctx, v.tenant, v.account.User); err != nil {
		return nil, err
	}
	v.account = nil
	return v.page("done", doneData{Title: "deactivated_title", Text: "deactivated_done"}, http.StatusOK), nil
}

// resetPage lets a client of the user replace the cross-signing keys: the stage m.oauth, whose session is in the query.
func (v *visit) resetPage(ctx context.Context) (any, error) {
	switch v.form.Get("do") {
	case "deny":
		return v.page("done", doneData{"reset_denied_title", "reset_denied", "?action=" + actionDevices}, http.StatusOK), nil
	case "reset":
	default:
		return v.page("reset", nil, http.StatusOK), nil
	}
	var err error
	if v.problem, err = v.confirmed(ctx); err != nil {
		return nil, err
	}
	status := http.StatusForbidden
	if v.problem == "" {
		err := v.s.o.Accounts.ApproveCrossSigning(ctx, v.tenant, v.account.User, v.r.Query("session"))
		if err == nil {
			return v.page("done", doneData{Title: "reset_done_title", Text: "reset_done"}, http.StatusOK), nil
		}
		if !errors.Is(err, mxerror.NotFound) {
			return nil, err
		}
		v.problem, status = "reset_unknown", http.StatusNotFound
	}
	return v.page("reset", nil, status), nil
}

// confirmPage lets a client of the user do something that wants a proof of who it is: the stage m.login.sso, whose session is in the query. The person has
// signed in just now. What the client is about to do is told in general only: the session does not say it.
func (v *visit) confirmPage(ctx context.Context) (any, error) {
	switch v.form.Get("do") {
	case "deny":
		return v.page("done", doneData{"confirm_denied_title", "confirm_denied", "?action=" + actionDevices}, http.StatusOK), nil
	case "confirm":
	default:
		return v.page("confirm", nil, http.StatusOK), nil
	}
	session := v.r.Query("session")
	err := v.s.o.Accounts.ApproveStage(ctx, v.tenant, v.account.User, session)
	if errors.Is(err, mxerror.NotFound) {
		v.problem = "confirm_unknown"
		return v.page("confirm", nil, http.StatusNotFound), nil
	}
	if err != nil {
		return nil, err
	}
	if v.r.Tenant == nil { // the page that tells the window is on the organisations' own hosts
		return v.page("done", doneData{Title: "confirm_done_title", Text: "reset_done"}, http.StatusOK), nil
	}
	return seeOther(account.FallbackPath(session)), nil
}
