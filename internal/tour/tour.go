// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package tour

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	matrixid "maunium.net/go/mautrix/id"

	"github.com/konsil-health/konsil/internal/demo"
	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/telematik/registration"
	"github.com/konsil-health/konsil/internal/tour/messenger"
)

// Options say where the tour's network lives and who listens.
type Options struct {
	// Folder is empty and the tour's own.
	Folder    string
	Databases [3]string
	Out       io.Writer
	Log       *slog.Logger
}

// walk is a tour under way.
type walk struct {
	o      Options
	n      *demo.Network
	number int
	anna   *messenger.Device // physician at provider A
	lena   *messenger.Device // physician of the institution that registers at provider B
	room   matrixid.RoomID
}

// Run walks through the consultation and stops the network again. The error names the step that failed.
func Run(ctx context.Context, o Options) (err error) {
	w := &walk{o: o}
	defer func() {
		for _, d := range []*messenger.Device{w.anna, w.lena} {
			if d != nil {
				d.Close()
			}
		}
		if w.n != nil {
			err = errors.Join(err, w.n.Close())
		}
	}()
	for _, s := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"the network starts: two providers, directory, cards, federation list", w.start},
		{"Praxis am See proves itself with its SMC-B and gets a messenger at provider Milan", w.register},
		{"Dr. Weber (provider Kolibri) and Dr. Seidel (provider Milan) sign in, each with keys of her own", w.signIn},
		{"Dr. Weber searches the directory for a cardiologist named Seidel", w.search},
		{"Dr. Seidel blocks everybody: Dr. Weber's invitation is refused", w.blocked},
		{"Dr. Seidel allows Dr. Weber's practice: the invitation arrives and she accepts", w.invite},
		{"both confirm each other's identity (cross-signing)", w.verify},
		{"messages both ways, end-to-end encrypted", w.talk},
		{"an encrypted finding as a file", w.file},
		{"a server outside the federation is refused, in both directions", w.refuse},
		{"provider Milan restarts in the middle of the conversation: nothing is lost or doubled", w.restart},
	} {
		w.number++
		begin := time.Now()
		if err := s.do(ctx); err != nil {
			fmt.Fprintf(o.Out, "%2d. %s\n    FAILED: %v\n", w.number, s.what, err)
			return fmt.Errorf("step %d, %s: %w", w.number, s.what, err)
		}
		fmt.Fprintf(o.Out, "%2d. %s  (%d ms)\n", w.number, s.what, time.Since(begin).Milliseconds())
	}
	return nil
}

func (w *walk) say(format string, a ...any) { fmt.Fprintf(w.o.Out, "      "+format+"\n", a...) }

func (w *walk) start(ctx context.Context) (err error) {
	w.n, err = demo.Start(ctx, demo.Options{Folder: w.o.Folder, Databases: w.o.Databases, Entries: 300, Log: w.o.Log,
		Configure: func(c *config.Config) { c.RateLimits = false }})
	return err
}

func (w *walk) register(ctx context.Context) error {
	smcb, err := w.n.Central.PKI.Card(demo.Newcomer.TelematikID)
	if err != nil {
		return err
	}
	c := registration.Client{URL: w.n.Providers[1].Registration(), Trust: w.n.Central.PKI.Trust()}
	result, err := c.Register(ctx, smcb, demo.PIN, registration.Order{ServerName: demo.Newcomer.Server, DisplayName: demo.Newcomer.Name})
	if err != nil {
		return err
	}
	w.say("%s is now %s (Telematik-ID %s)", result.DisplayName, result.ServerName, result.TelematikID)
	return w.n.Admit(ctx, demo.Newcomer)
}

func (w *walk) signIn(ctx context.Context) (err error) {
	open := func(o demo.Organisation, p demo.Person) (*messenger.Device, error) {
		d, err := messenger.Open(ctx, messenger.Options{URL: w.n.URL, User: "@" + p.Login() + ":" + string(o.Server), Password: demo.Password})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Title(), err)
		}
		if _, err := d.SetUp(ctx, demo.Password); err != nil {
			return nil, fmt.Errorf("keys of %s: %w", p.Title(), err)
		}
		return d, d.Sync(ctx, 0)
	}
	if w.anna, err = open(demo.Cast[0], demo.Cast[0].People[0]); err != nil {
		return err
	}
	if w.lena, err = open(demo.Newcomer, demo.Newcomer.People[0]); err != nil {
		return err
	}
	return nil
}

// search exchanges an OpenID token of Dr. Weber's homeserver for a search token, as her client would, and finds the colleague's address.
func (w *walk) search(ctx context.Context) error {
	openid, err := w.anna.Client.RequestOpenIDToken(ctx)
	if err != nil {
		return err
	}
	var token struct {
		Access string `json:"access_token"`
	}
	err = w.directory(ctx, "/tim-authenticate?mxId="+url.QueryEscape(string(demo.Cast[0].Server)), "X-Matrix-OpenID-Token", openid.AccessToken, &token)
	if err != nil {
		return err
	}
	var bundle struct {
		Entry []struct {
			Resource struct {
				Type    string `json:"resourceType"`
				Address string `json:"address"`
			} `json:"resource"`
		} `json:"entry"`
	}
	query := "/search/PractitionerRole?practitioner.active=true&practitioner.name=Seidel&_include=PractitionerRole:practitioner&_include=PractitionerRole:endpoint"
	if err := w.directory(ctx, query, "Authorization", "Bearer "+token.Access, &bundle); err != nil {
		return err
	}
	user := w.lena.User()
	want := "matrix:u/" + user.Localpart() + ":" + user.Homeserver()
	for _, e := range bundle.Entry {
		if e.Resource.Type == "Endpoint" && e.Resource.Address == want {
			w.say("found: %s", e.Resource.Address)
			return nil
		}
	}
	return fmt.Errorf("%d entries, none with the address %s", len(bundle.Entry), want)
}

func (w *walk) directory(ctx context.Context, path, header, value string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.n.Central.URL+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set(header, value)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the directory answers %s: %.300s", resp.Status, body)
	}
	return json.Unmarshal(body, into)
}

// permissions sets Dr. Seidel's permission configuration.
func (w *walk) permissions(ctx context.Context, configuration string) error {
	return w.lena.Client.SetAccountData(ctx, "de.gematik.tim.account.permissionconfig.pro.v1", jsontext.Value(configuration))
}

func (w *walk) blocked(ctx context.Context) error {
	if err := w.permissions(ctx, `{"defaultSetting":"block all"}`); err != nil {
		return err
	}
	room, err := w.anna.CreateRoom(ctx, "Konsil: Belastungs-EKG")
	if err != nil {
		return err
	}
	w.room = room
	err = w.anna.Invite(ctx, room, w.lena.User())
	if err == nil {
		return errors.New("the invitation was not refused")
	}
	w.say("refused: %v", err)
	return nil
}

func (w *walk) invite(ctx context.Context) error {
	if err := w.permissions(ctx, `{"defaultSetting":"block all","serverExceptions":{"`+string(demo.Cast[0].Server)+`":{}}}`); err != nil {
		return err
	}
	if err := w.anna.Invite(ctx, w.room, w.lena.User()); err != nil {
		return err
	}
	room, err := w.lena.Invitation(ctx, w.anna.User())
	if err != nil {
		return err
	}
	if err := w.lena.Join(ctx, room); err != nil {
		return err
	}
	return w.anna.Until(ctx, "Dr. Seidel is in the room", func() bool {
		members, err := w.anna.Client.JoinedMembers(ctx, w.room)
		return err == nil && len(members.Joined) == 2
	})
}

func (w *walk) verify(ctx context.Context) error {
	for _, pair := range [][2]*messenger.Device{{w.anna, w.lena}, {w.lena, w.anna}} {
		fingerprint, err := pair[1].Fingerprint(ctx)
		if err != nil {
			return err
		}
		if err := pair[0].Verify(ctx, pair[1].User(), fingerprint); err != nil {
			return err
		}
		trusted, err := pair[0].Trusts(ctx, pair[1].User())
		if err != nil || !trusted {
			return errors.Join(fmt.Errorf("%s does not trust %s", pair[0].User(), pair[1].User()), err)
		}
	}
	return nil
}

// exchange sends a text and waits until the other reads it.
func (w *walk) exchange(ctx context.Context, from, to *messenger.Device, text string) error {
	if _, err := from.Send(ctx, w.room, text); err != nil {
		return err
	}
	return to.Until(ctx, "the message is readable: "+text, func() bool { return slices.Contains(to.Room(w.room).Texts(from.User()), text) })
}

func (w *walk) talk(ctx context.Context) error {
	for _, text := range []string{"Guten Morgen, haben Sie das Belastungs-EKG gesehen?", "Ich schicke es Ihnen gleich."} {
		if err := w.exchange(ctx, w.anna, w.lena, text); err != nil {
			return err
		}
	}
	return w.exchange(ctx, w.lena, w.anna, "Danke, ich sehe es mir in der Pause an.")
}

func (w *walk) file(ctx context.Context) error {
	finding := make([]byte, 200<<10)
	rand.Read(finding)
	eid, err := w.anna.SendFile(ctx, w.room, "belastungs-ekg.pdf", "application/pdf", finding)
	if err != nil {
		return err
	}
	err = w.lena.Until(ctx, "the file is there", func() bool {
		m := w.lena.Room(w.room).Message(eid)
		return m != nil && m.File != nil
	})
	if err != nil {
		return err
	}
	got, err := w.lena.Download(ctx, w.lena.Room(w.room).Message(eid))
	if err != nil {
		return err
	}
	if !bytes.Equal(got, finding) {
		return fmt.Errorf("the file arrived with %d bytes, changed", len(got))
	}
	return nil
}

// refuse: nobody is invited who is not in the federation, and a request of a server that is not on the list is turned away.
func (w *walk) refuse(ctx context.Context) error {
	if err := w.anna.Invite(ctx, w.room, matrixid.UserID("@fremd:"+string(demo.Stranger))); err == nil {
		return errors.New("a stranger was invited")
	}
	status, err := w.n.StrangerKnocks(ctx, demo.Cast[0].Server)
	if err != nil {
		return err
	}
	if status != http.StatusForbidden && status != http.StatusUnauthorized {
		return fmt.Errorf("a request of %s was answered with %d", demo.Stranger, status)
	}
	w.say("inwards: status %d", status)
	return nil
}

// restart: messages sent while the other provider is down arrive once each afterwards.
func (w *walk) restart(ctx context.Context) error {
	var texts []string
	for i := range 3 {
		texts = append(texts, fmt.Sprintf("Vor dem Neustart %d", i+1))
		if _, err := w.anna.Send(ctx, w.room, texts[i]); err != nil {
			return err
		}
	}
	if err := w.n.Providers[1].Restart(ctx); err != nil {
		return err
	}
	for i := range 3 {
		text := fmt.Sprintf("Nach dem Neustart %d", i+1)
		texts = append(texts, text)
		if _, err := w.anna.Send(ctx, w.room, text); err != nil {
			return err
		}
	}
	got := func() []string { return w.lena.Room(w.room).Texts(w.anna.User()) }
	err := w.lena.Until(ctx, "all messages are there", func() bool {
		return !slices.ContainsFunc(texts, func(t string) bool { return !slices.Contains(got(), t) })
	})
	if err != nil {
		return err
	}
	for _, t := range texts {
		if n := len(slices.DeleteFunc(slices.Clone(got()), func(g string) bool { return g != t })); n != 1 {
			return fmt.Errorf("%q arrived %d times", t, n)
		}
	}
	if doubled := w.lena.Room(w.room).Doubled; len(doubled) > 0 {
		return fmt.Errorf("events came twice: %v", doubled)
	}
	return w.exchange(ctx, w.lena, w.anna, "Alles angekommen.")
}
