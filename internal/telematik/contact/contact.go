// SPDX-License-Identifier: Apache-2.0

package contact

import (
	"context"
	"database/sql"
	"errors"
	"time"
	"unicode/utf8"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

const (
	// maxContacts bounds a user's list.
	maxContacts = 1000
	// maxName bounds a contact's name in characters.
	maxName = 255
)

// What is wrong with a contact.
var (
	ErrUnknown = errors.New("there is no such contact")
	ErrExists  = errors.New("the contact is there already; PUT changes it")
	ErrMany    = errors.New("the list is full")
	ErrInvalid = errors.New("a contact has a displayName, the mxid of a user and inviteSettings whose end, if there is one, comes after their start")
)

// Contact is somebody who may invite the list's owner from Start until End (Contact of the published interface).
type Contact struct {
	Name     string   `json:"displayName"`
	User     id.User  `json:"mxid"`
	Settings Settings `json:"inviteSettings"`
}

// Settings say when, in seconds since the epoch; without an end for ever.
type Settings struct {
	Start *int64 `json:"start"`
	End   *int64 `json:"end,omitempty"`
}

// check refuses what the interface does not allow.
func (c *Contact) check() error {
	_, err := id.ParseUser(string(c.User))
	s := c.Settings
	if err != nil || c.Name == "" || utf8.RuneCountInString(c.Name) > maxName || s.Start == nil || *s.Start < 0 || s.End != nil && *s.End <= *s.Start {
		return ErrInvalid
	}
	return nil
}

// ends is the end as it is kept.
func (c *Contact) ends() int64 {
	if c.Settings.End == nil {
		return 0
	}
	return *c.Settings.End
}

// Options are what the lists stand on.
type Options struct {
	DB *database.DB
	// Prove says whose Matrix OpenID token it is; package account implements it.
	Prove func(ctx context.Context, t *tenant.Tenant, token string) (id.User, error)
	// Now is the clock; nil is the system's.
	Now func() time.Time
}

// Lists are the contacts of all users of a cell.
type Lists struct{ o Options }

// New returns the lists.
func New(o Options) *Lists {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Lists{o}
}

// Allows says whether a user's list lets somebody invite that user now.
func (l *Lists) Allows(ctx context.Context, t tenant.ID, user, inviter id.User) (bool, error) {
	var one int
	err := l.o.DB.QueryRow(ctx, "SELECT 1 FROM contact WHERE tenant = $1 AND user_id = $2 AND mxid = $3 AND starts <= $4 AND (ends = 0 OR ends > $4)",
		int64(t), string(user), string(inviter), l.o.Now().Unix()).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// Of returns a user's list in the order of user ids.
func (l *Lists) Of(ctx context.Context, t tenant.ID, user id.User) ([]Contact, error) {
	rows, err := l.o.DB.Query(ctx, "SELECT name, mxid, starts, ends FROM contact WHERE tenant = $1 AND user_id = $2 ORDER BY mxid", int64(t), string(user))
	return database.All(rows, err, func(rows *sql.Rows) (Contact, error) { return scan(rows.Scan) })
}

// Get returns one contact, or ErrUnknown.
func (l *Lists) Get(ctx context.Context, t tenant.ID, user, contact id.User) (Contact, error) {
	c, err := scan(l.o.DB.QueryRow(ctx, "SELECT name, mxid, starts, ends FROM contact WHERE tenant = $1 AND user_id = $2 AND mxid = $3",
		int64(t), string(user), string(contact)).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrUnknown
	}
	return c, err
}

func scan(scan func(...any) error) (Contact, error) {
	var c Contact
	var start, end int64
	err := scan(&c.Name, &c.User, &start, &end)
	c.Settings.Start = &start
	if end != 0 {
		c.Settings.End = &end
	}
	return c, err
}

// Create adds a contact: ErrExists, ErrMany or ErrInvalid when it cannot be.
func (l *Lists) Create(ctx context.Context, t tenant.ID, user id.User, c Contact) error {
	if err := c.check(); err != nil {
		return err
	}
	return l.o.DB.Write(ctx, func(tx *database.Tx) error {
		var n int
		if err := tx.QueryRow(ctx, "SELECT COUNT(*) FROM contact WHERE tenant = $1 AND user_id = $2", int64(t), string(user)).Scan(&n); err != nil {
			return err
		}
		if n >= maxContacts {
			return ErrMany
		}
		added, err := tx.Exec(ctx, "INSERT INTO contact (tenant, user_id, mxid, name, starts, ends) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
			int64(t), string(user), string(c.User), c.Name, *c.Settings.Start, c.ends())
		if err == nil && added == 0 {
			return ErrExists
		}
		return err
	})
}

// Update changes a contact: ErrUnknown or ErrInvalid when it cannot be.
func (l *Lists) Update(ctx context.Context, t tenant.ID, user id.User, c Contact) error {
	if err := c.check(); err != nil {
		return err
	}
	n, err := l.o.DB.Exec(ctx, "UPDATE contact SET name = $4, starts = $5, ends = $6 WHERE tenant = $1 AND user_id = $2 AND mxid = $3",
		int64(t), string(user), string(c.User), c.Name, *c.Settings.Start, c.ends())
	if err == nil && n == 0 {
		return ErrUnknown
	}
	return err
}

// Delete removes a contact, or says ErrUnknown.
func (l *Lists) Delete(ctx context.Context, t tenant.ID, user, contact id.User) error {
	n, err := l.o.DB.Exec(ctx, "DELETE FROM contact WHERE tenant = $1 AND user_id = $2 AND mxid = $3", int64(t), string(user), string(contact))
	if err == nil && n == 0 {
		return ErrUnknown
	}
	return err
}

// Forget removes a user's list, when the account ends.
func (l *Lists) Forget(ctx context.Context, t tenant.ID, user id.User) error {
	_, err := l.o.DB.Exec(ctx, "DELETE FROM contact WHERE tenant = $1 AND user_id = $2", int64(t), string(user))
	return err
}
