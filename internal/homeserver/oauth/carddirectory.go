// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"net/http"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// CardDirectory puts the addresses of health professionals into the national directory, on the word of their card (AF_10058). Package server implements
// it over the directory's published interface for owners.
type CardDirectory interface {
	// Begin starts a sign-in at the directory: challenge is the address that authenticators are given, request asks for the outcome. The request is a
	// secret, and counts for less than ten minutes.
	Begin(ctx context.Context) (request, challenge string, err error)
	// Apply makes a user's address visible or takes it out, once the card of the Telematik-ID was shown. done is false as long as it was not.
	// ErrOtherCard: another card was shown.
	Apply(ctx context.Context, request, number string, user id.User, name string, visible bool) (done bool, err error)
}

// ErrOtherCard tells that the directory saw another card than the account's.
var ErrOtherCard = errors.New("another card than the account's was shown")

const (
	// actionDirectory is our own action of the account page.
	actionDirectory    = "directory"
	publicationPurpose = "oauth directory request"
	// refreshSeconds is how often a page that waits looks again; the directory allows no more than every five seconds.
	refreshSeconds = "6"
)

// directoryData is what the page shows.
type directoryData struct{ Visible bool }

// directoryPage lets the holder of a card say whether the directory shows their address.
func (v *visit) directoryPage(ctx context.Context) (any, error) {
	link, err := v.cardOf(ctx)
	if err != nil {
		return nil, err
	}
	if link == nil || link.Number == v.tenant.TelematikID || v.s.o.Config.Card.Directory == nil {
		return v.s.errorPage(v.r, http.StatusNotFound, "directory_no_card", ""), nil
	}
	switch {
	case v.form.Get("do") == "publish" || v.form.Get("do") == "withdraw":
		return v.s.askDirectory(ctx, v, v.form.Get("do") == "publish")
	case v.r.Query("wait") != "":
		return v.s.awaitDirectory(ctx, v, link)
	}
	return v.page("directory", directoryData{link.Published != 0}, http.StatusOK), nil
}

// askDirectory begins a sign-in at the directory.
func (s *Service) askDirectory(ctx context.Context, v *visit, visible bool) (any, error) {
	request, challenge, err := s.o.Config.Card.Directory.Begin(ctx)
	if err != nil {
		s.o.Log.Error("directory", "tenant", string(v.tenant.Name), "error", err)
		return s.errorPage(v.r, http.StatusBadGateway, "directory_away", ""), nil
	}
	sealed := base64.RawStdEncoding.EncodeToString(s.o.Keyring.Seal(publicationPurpose, []byte(request)))
	now := s.now()
	err = s.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM card_publication WHERE tenant = $1 AND (user_id = $2 OR expires < $3)", int64(v.tenant.ID), string(v.account.User), now); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO card_publication (tenant, user_id, request, address, visible, expires) VALUES ($1, $2, $3, $4, $5, $6)",
			int64(v.tenant.ID), string(v.account.User), sealed, challenge, visible, now+cardVisitLife.Milliseconds())
		return err
	})
	if err != nil {
		return nil, err
	}
	return seeOther(pathAccount + "?action=" + actionDirectory + "&wait=1"), nil
}

// awaitDirectory looks whether the card was shown, and does then what was wished.
func (s *Service) awaitDirectory(ctx context.Context, v *visit, link *account.CardLink) (any, error) {
	var sealed, challenge string
	var visible bool
	err := s.db.QueryRow(ctx, "SELECT request, address, visible FROM card_publication WHERE tenant = $1 AND user_id = $2 AND expires > $3",
		int64(v.tenant.ID), string(v.account.User), s.now()).Scan(&sealed, &challenge, &visible)
	if errors.Is(err, sql.ErrNoRows) {
		return seeOther(pathAccount + "?action=" + actionDirectory), nil
	}
	if err != nil {
		return nil, err
	}
	raw, err := base64.RawStdEncoding.DecodeString(sealed)
	if err != nil {
		return nil, err
	}
	request, err := s.o.Keyring.Unseal(publicationPurpose, raw)
	if err != nil {
		return nil, err
	}
	p, err := s.o.Accounts.Profile(ctx, v.tenant.ID, v.account.User)
	if err != nil {
		return nil, err
	}
	name := string(v.account.User)
	if p.DisplayName != nil && *p.DisplayName != "" {
		name = *p.DisplayName
	}
	done, err := s.o.Config.Card.Directory.Apply(ctx, string(request), link.Number, v.account.User, name, visible)
	switch {
	case err == nil && !done:
		return v.waitingForCard(challenge), nil
	case errors.Is(err, ErrOtherCard):
		return s.directoryFailed(ctx, v, "directory_other_card", http.StatusForbidden)
	case err != nil:
		s.o.Log.Error("directory", "tenant", string(v.tenant.Name), "error", err)
		return s.directoryFailed(ctx, v, "directory_away", http.StatusBadGateway)
	}
	if err := errors.Join(s.forgetPublication(ctx, v), s.o.Accounts.CardPublished(ctx, v.tenant.ID, v.account.User, visible)); err != nil {
		return nil, err
	}
	text := "directory_withdrawn"
	if visible {
		text = "directory_published"
	}
	return v.page("done", doneData{"directory_title", text, "?"}, http.StatusOK), nil
}

func (v *visit) waitingForCard(challenge string) *httpapi.Reply {
	d := v.s.cardData(challenge)
	d.Agent += "&cardType=HBA&callback=DIRECT"
	d.Separate, d.Refresh = true, pathAccount+"?action="+actionDirectory+"&wait=1"
	v.header.Set("Refresh", refreshSeconds)
	return v.page("card", d, http.StatusOK)
}

func (s *Service) forgetPublication(ctx context.Context, v *visit) error {
	_, err := s.db.Exec(ctx, "DELETE FROM card_publication WHERE tenant = $1 AND user_id = $2", int64(v.tenant.ID), string(v.account.User))
	return err
}

func (s *Service) directoryFailed(ctx context.Context, v *visit, key string, status int) (any, error) {
	if err := s.forgetPublication(ctx, v); err != nil {
		return nil, err
	}
	return v.page("done", doneData{"error_title", key, "?action=" + actionDirectory}, status), nil
}
