// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/directory"
	"github.com/konsil-health/konsil/internal/telematik/fedlist"
)

// state is what the network remembers of having been filled.
type state struct {
	file string
	// Central says that directory, cards and list are filled.
	Central bool `json:"central"`
	// Users are the people's ids by server and login name.
	Users map[string]id.User `json:"users"`
	// Published says that the people's addresses are in the directory.
	Published bool `json:"published"`
}

func readState(file string) (*state, error) {
	s := &state{file: file, Users: map[string]id.User{}}
	raw, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, s); err != nil {
		return nil, fmt.Errorf("%s: %w (start with --fresh to begin anew)", file, err)
	}
	return s, nil
}

func (s *state) save() error {
	raw, err := json.Marshal(s, json.Deterministic(true), jsontext.WithIndent("  "))
	if err != nil {
		return err
	}
	next := s.file + ".next"
	if err := os.WriteFile(next, raw, 0o600); err != nil {
		return err
	}
	return os.Rename(next, s.file)
}

// directorySeed makes the same invented entries every time.
const directorySeed = 2026

// fillCentral does what card issuers and the providers have done before the demonstration begins: entries, cards, the list of members.
func (n *Network) fillCentral(ctx context.Context) error {
	if n.state.Central {
		return nil
	}
	var entries []directory.Entry
	for _, o := range append(Cast[:len(Cast):len(Cast)], Newcomer) {
		more, err := o.entry().Entries()
		if err != nil {
			return err
		}
		entries = append(entries, more...)
		if _, err := n.Central.PKI.IssueSMCB(card.Institution{Name: o.Name, TelematikID: o.TelematikID, ProfessionOID: o.Profession, PIN: PIN}); err != nil {
			return err
		}
		for _, p := range o.People {
			if more, err = n.enter(p, o); err != nil {
				return err
			}
			entries = append(entries, more...)
		}
	}
	invented, err := directory.Generate(directorySeed, n.o.Entries).Entries()
	if err != nil {
		return err
	}
	if err := n.Central.Directory.Store().Put(ctx, append(entries, invented...)...); err != nil {
		return err
	}
	for _, o := range Cast {
		d := fedlist.Domain{Domain: o.Server, TelematikID: o.TelematikID, IsInsurance: o.Insurance}
		if o.Insurance {
			d.IK = []string{InsurerIK}
		}
		if err := n.Central.List.Add(ctx, Providers[o.Provider], d); err != nil && !errors.Is(err, fedlist.ErrExists) {
			return err
		}
	}
	n.state.Central = true
	return n.state.save()
}

// enter issues a person's card and returns its directory entries, if it is a health professional or insured.
func (n *Network) enter(p Person, o Organisation) ([]directory.Entry, error) {
	if p.KVNR != "" {
		_, err := n.Central.PKI.IssueEGK(card.Insured{GivenName: p.Given, FamilyName: p.Family, KVNR: p.KVNR, Insurer: o.Name, IK: InsurerIK, PIN: PIN})
		return nil, err
	}
	if p.TelematikID == "" {
		return nil, nil
	}
	if _, err := n.Central.PKI.IssueHBA(card.Person{GivenName: p.Given, FamilyName: p.Family, TelematikID: p.TelematikID, ProfessionOID: p.Profession, PIN: PIN}); err != nil {
		return nil, err
	}
	return p.entry(o).Entries()
}

// fillPeople makes the accounts and puts the health professionals' addresses into the directory, as they would themselves with their cards.
func (n *Network) fillPeople(ctx context.Context) error {
	if n.state.Published {
		return nil
	}
	for _, o := range Cast {
		if err := n.addPeople(ctx, o, true); err != nil {
			return err
		}
	}
	n.state.Published = true
	return n.state.save()
}

// addPeople makes an organisation's accounts; publish puts the people with cards into the directory.
func (n *Network) addPeople(ctx context.Context, o Organisation, publish bool) error {
	s := n.Providers[o.Provider].Server
	t, err := s.Tenants().ByName(ctx, o.Server)
	if err != nil {
		return err
	}
	for _, p := range o.People {
		key := string(o.Server) + " " + p.Login()
		user, known := n.state.Users[key]
		if !known {
			user, err = s.Accounts().Create(ctx, t, account.NewUser{LoginName: p.Login(), Password: Password, DisplayName: p.DisplayName()})
			if err != nil {
				return fmt.Errorf("%s: %w", p.Login(), err)
			}
			n.state.Users[key] = user
			if err := n.state.save(); err != nil {
				return err
			}
		}
		if err := prove(ctx, s.Accounts(), t, user, p); err != nil {
			return fmt.Errorf("%s: %w", p.Login(), err)
		}
		if p.TelematikID == "" || !publish {
			continue
		}
		if err := n.Central.Directory.Store().SetMessenger(ctx, p.TelematikID, directory.Messenger{User: user, Name: p.Title()}); err != nil {
			return err
		}
	}
	return nil
}

// prove registers somebody's card, as an administrator does, or enrols the authenticator app of who has none.
func prove(ctx context.Context, accounts *account.Service, t *tenant.Tenant, user id.User, p Person) error {
	if p.TelematikID != "" {
		return accounts.RegisterCard(ctx, t, user, p.TelematikID)
	}
	has, err := accounts.HasSecondFactor(ctx, t.ID, user)
	if err != nil || has {
		return err
	}
	return accounts.EnrolTOTP(ctx, t, user, appSecret(p.Login()), appCode(p.Login()))
}

// Admit makes the accounts of an organisation that has registered itself, as its administrator would. Who has a card goes into the directory alone.
func (n *Network) Admit(ctx context.Context, o Organisation) error {
	if err := n.addPeople(ctx, o, false); err != nil {
		return err
	}
	return n.state.save()
}

// User returns the Matrix id of one of the cast.
func (n *Network) User(server id.Server, login string) (id.User, bool) {
	u, ok := n.state.Users[string(server)+" "+login]
	return u, ok
}
