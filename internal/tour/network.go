// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package tour

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"github.com/konsil-health/konsil/internal/demo"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/telematik/permission"
	"github.com/konsil-health/konsil/internal/telematik/registration"
	"github.com/konsil-health/konsil/internal/tour/messenger"
)

// register lets the new practice prove itself with its institution card.
func (w *walk) register(ctx context.Context) (string, error) {
	practice, milan := w.newcomer(), w.network.Providers[1]
	smcb, err := w.network.Central.PKI.Card(practice.TelematikID)
	if err != nil {
		return "", err
	}
	client := registration.Client{URL: milan.Registration(), Trust: w.network.Central.PKI.Trust()}
	if _, err := client.Register(ctx, smcb, "000000", registration.Order{ServerName: practice.Server}); err == nil {
		return "", errors.New("a wrong PIN opened the card")
	}
	got, err := client.Register(ctx, smcb, demo.PIN, registration.Order{ServerName: practice.Server, DisplayName: practice.Name, Admin: "verwaltung"})
	if err != nil {
		return "", err
	}
	if got.TelematikID != practice.TelematikID || got.ServerName != practice.Server || got.Admin == nil {
		return "", fmt.Errorf("registered as %+v", got)
	}
	if err := w.network.Admit(ctx, practice); err != nil {
		return "", fmt.Errorf("the administrator adds Dr. %s: %w", practice.People[0].Family, err)
	}
	return fmt.Sprintf("%s is %s, Telematik-ID %s; its administrator is %s", practice.Server, got.DisplayName, got.TelematikID, got.Admin.User), nil
}

func (w *walk) annaSignsIn(ctx context.Context) (came string, err error) {
	w.anna, came, err = w.signIn(ctx, w.home())
	return came, err
}

func (w *walk) lenaSignsIn(ctx context.Context) (came string, err error) {
	w.lena, came, err = w.signIn(ctx, w.newcomer())
	return came, err
}

// signIn signs the first person of an organisation in, at the address that all organisations share, and makes a cross-signing identity and a key backup.
func (w *walk) signIn(ctx context.Context, home demo.Organisation) (*physician, string, error) {
	p := &physician{Person: home.People[0], home: home}
	var err error
	if p.Device, err = w.device(ctx, p); err != nil {
		return nil, "", err
	}
	if strings.Contains(p.User().String(), p.Login()) || p.User().Homeserver() != string(home.Server) {
		return p, "", fmt.Errorf("signed in as %s: a Matrix ID must not tell the name", p.User())
	}
	if p.recoveryKey, err = p.SetUp(ctx, demo.Password); err != nil {
		return p, "", err
	}
	return p, fmt.Sprintf("by health professional card as %s, with a cross-signing identity and a key backup", p.User()), nil
}

// device signs somebody in on a new device, by card in the browser.
func (w *walk) device(ctx context.Context, p *physician) (*messenger.Device, error) {
	token, err := w.network.SignIn(ctx, p.Person, p.home)
	if err != nil {
		return nil, err
	}
	return messenger.Open(ctx, messenger.Options{URL: w.network.URL, User: "@" + p.Login() + ":" + string(p.home.Server), LoginToken: token})
}

// publish lets Lena, whom the directory knows from her card's issuer, add her own address and nobody else's (AF_10058).
func (w *walk) publish(ctx context.Context) (string, error) {
	for _, visible := range []bool{true, false, true} {
		if err := w.network.Publish(ctx, w.lena.Person, w.lena.home, visible); err != nil {
			return "", err
		}
	}
	return "in, out and in again, each time on the word of her card", nil
}

// search asks the directory as Anna's messenger does: a Matrix OpenID token becomes a search token, a search gives a Matrix ID.
func (w *walk) search(ctx context.Context) (string, error) {
	openID, err := w.anna.Client.RequestOpenIDToken(ctx)
	if err != nil {
		return "", fmt.Errorf("OpenID token: %w", err)
	}
	var access struct {
		Token string `json:"access_token"`
	}
	directory := w.network.Central.URL
	if err := fetch(ctx, directory+"/tim-authenticate?mxId="+url.QueryEscape(w.anna.User().Homeserver()), map[string]string{"X-Matrix-OpenID-Token": openID.AccessToken}, &access); err != nil {
		return "", fmt.Errorf("search token: %w", err)
	}
	var found struct {
		Total int `json:"total"`
		Entry []struct {
			Resource struct {
				Type    string `json:"resourceType"`
				Address string `json:"address"`
				Name    string `json:"name"`
			} `json:"resource"`
		} `json:"entry"`
	}
	query := url.Values{"practitioner.active": {"true"}, "practitioner.name": {w.newcomer().People[0].Family}, "endpoint.status": {"active"}, "_include": {"PractitionerRole:endpoint"}}
	if err := fetch(ctx, directory+"/search/PractitionerRole?"+query.Encode(), map[string]string{"Authorization": "Bearer " + access.Token}, &found); err != nil {
		return "", fmt.Errorf("search: %w", err)
	}
	for _, e := range found.Entry {
		user := id.UserID("@" + strings.TrimPrefix(e.Resource.Address, "matrix:u/"))
		if e.Resource.Type == "Endpoint" && user == w.lena.User() {
			return fmt.Sprintf("%d found; %s is %s", found.Total, e.Resource.Name, user), nil
		}
	}
	return "", fmt.Errorf("%d found, %s is not among them", found.Total, w.lena.User())
}

// fetch asks for a JSON resource.
func fetch(ctx context.Context, address string, header map[string]string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", res.Status, body)
	}
	return httpapi.DecodeJSON(body, into)
}

// permit sets Lena's permission configuration as her messenger does.
func (w *walk) permit(ctx context.Context, c permission.Config) error {
	return w.lena.Client.SetAccountData(ctx, permission.ConfigTypePro, c)
}

// blocked shows that the invited person's own server enforces what she has configured.
func (w *walk) blocked(ctx context.Context) (string, error) {
	if err := w.permit(ctx, permission.Config{DefaultSetting: permission.BlockAll}); err != nil {
		return "", err
	}
	if err := w.known(ctx); err != nil {
		return "", err
	}
	if _, err := w.anna.CreateRoom(ctx, "Konsil", w.lena.User()); !errors.Is(err, mautrix.MForbidden) {
		return "", fmt.Errorf("an invitation to somebody who blocks everybody was answered: %w", orNothing(err))
	}
	if err := w.lena.Sync(ctx, 0); err != nil {
		return "", err
	}
	if n := len(w.lena.Invitations()); n != 0 {
		return "", fmt.Errorf("%d invitations reached her all the same", n)
	}
	return "403 M_FORBIDDEN from Lena's own server; she sees nothing of it", nil
}

// known waits until Anna's provider knows the practice that has just registered: a provider asks for a newer federation list at most once a second.
func (w *walk) known(ctx context.Context) error {
	again := time.NewTicker(500 * time.Millisecond)
	defer again.Stop()
	for {
		_, err := w.anna.Client.GetDisplayName(ctx, w.lena.User())
		if err == nil || !errors.Is(err, mautrix.MForbidden) {
			return err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return err
		}
	}
}

func orNothing(err error) error {
	if err == nil {
		return errors.New("with success")
	}
	return err
}

// allowed makes Anna the exception, and lets both into the room.
func (w *walk) allowed(ctx context.Context) (string, error) {
	except := map[string]jsontext.Value{w.anna.User().String(): jsontext.Value("{}")}
	if err := w.permit(ctx, permission.Config{DefaultSetting: permission.BlockAll, UserExceptions: except}); err != nil {
		return "", err
	}
	var err error
	if w.room, err = w.anna.CreateRoom(ctx, "Konsil", w.lena.User()); err != nil {
		return "", fmt.Errorf("invite: %w", err)
	}
	invited, err := w.lena.Invitation(ctx, w.anna.User())
	if err != nil {
		return "", err
	}
	if invited != w.room {
		return "", fmt.Errorf("invited to %s instead of %s", invited, w.room)
	}
	if err := w.lena.Join(ctx, w.room, w.anna.User().Homeserver()); err != nil {
		return "", err
	}
	if !w.lena.Encrypted(ctx, w.room) {
		return "", errors.New("the room is not encrypted")
	}
	return "room " + w.room.String(), nil
}

// strangerComes knocks at both providers with a signed request of a server outside the list.
func (w *walk) strangerComes(ctx context.Context) (string, error) {
	for _, home := range []demo.Organisation{w.home(), w.newcomer()} {
		status, err := w.network.StrangerKnocks(ctx, home.Server)
		if err != nil {
			return "", err
		}
		if status != http.StatusForbidden && status != http.StatusUnauthorized {
			return "", fmt.Errorf("%s answered %s with %d", home.Server, demo.Stranger, status)
		}
	}
	return fmt.Sprintf("%s gets nothing from either provider", demo.Stranger), nil
}

// strangerIsInvited tries to reach a server outside the list from both sides.
func (w *walk) strangerIsInvited(ctx context.Context) (string, error) {
	stranger := id.UserID("@jemand:" + demo.Stranger)
	for _, p := range []*physician{w.anna, w.lena} {
		if err := p.Invite(ctx, w.room, stranger); !errors.Is(err, mautrix.MForbidden) {
			return "", fmt.Errorf("%s's invitation to %s was answered: %w", p.Family, stranger, orNothing(err))
		}
		if _, err := p.Client.GetDisplayName(ctx, stranger); err == nil {
			return "", fmt.Errorf("%s read the profile of %s", p.Family, stranger)
		}
	}
	return "403 M_FORBIDDEN, decided before anything left the provider", nil
}
