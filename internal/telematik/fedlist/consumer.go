// SPDX-License-Identifier: Apache-2.0

package fedlist

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// The times of the requirement (dossier, section 3): the list is fetched every hour; a failed fetch is tried again three times, five minutes
// apart; a list older than FreshFor blocks federation.
const (
	Interval   = time.Hour
	RetryAfter = 5 * time.Minute
	Retries    = 3
	FreshFor   = 72 * time.Hour
	fetchTime  = 10 * time.Second
	// Unknown servers make us ask for a newer list at most missBurst times in missInterval, and each of them once.
	missInterval = time.Second
	missBurst    = 10
)

// ErrStale is answered when the list is older than it may be: nobody is a member then.
var ErrStale = errors.New("the federation list is out of date")

// ConsumerOptions are what a consumer stands on.
type ConsumerOptions struct {
	DB *database.DB
	// URL is the address of federationList.jws, without query.
	URL   string
	Trust *certificate.Trust
	// Token gives the provider's bearer token at the list's publisher; nil sends none.
	Token  Token
	Client *http.Client
	Log    *slog.Logger
	// FreshFor is how old the list may be; 0 is [FreshFor].
	FreshFor time.Duration
	// Revoked asks the issuer about a signer's certificate (OCSP); nil skips it.
	Revoked func(*certificate.Certificate) error
	// Incident is told of each event that an operator must look into, by its kind; nil: the log alone tells.
	Incident func(kind string)
	// Now is the clock; nil is the system's.
	Now func() time.Time
}

// The kinds of incidents.
const (
	IncidentUnavailable = "unavailable" // the list could not be fetched, retries included
	IncidentRefused     = "refused"     // a list did not verify
	IncidentOld         = "old"         // a list was older than ours
	IncidentStale       = "stale"       // ours is out of date: federation is blocked
)

// incident tells the operator.
func (c *Consumer) incident(kind, text string, args ...any) {
	c.o.Log.Error("incident: "+text, append(args, "kind", kind)...)
	if c.o.Incident != nil {
		c.o.Incident(kind)
	}
}

// Consumer keeps a cell's copy of the federation list. It is safe for concurrent use.
type Consumer struct {
	o ConsumerOptions

	refreshing sync.Mutex // one fetch at a time
	mu         sync.RWMutex
	list       *List
	members    map[id.Server]Domain
	fetched    time.Time // when the list was last confirmed
	window     time.Time // when the misses below began to be counted
	missed     map[id.Server]bool
	told       time.Time // when a stale list was last told of
}

// NewConsumer returns a consumer with the list that the cell last verified, if there is one.
func NewConsumer(ctx context.Context, o ConsumerOptions) (*Consumer, error) {
	if o.FreshFor == 0 {
		o.FreshFor = FreshFor
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Client == nil {
		o.Client = http.DefaultClient
	}
	c := &Consumer{o: o}
	var token string
	var fetched int64
	err := o.DB.QueryRow(ctx, "SELECT token, fetched FROM federation_list WHERE source = $1", o.URL).Scan(&token, &fetched)
	if errors.Is(err, sql.ErrNoRows) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	l, err := Verify(token, o.Trust, o.Now(), nil)
	if err != nil {
		o.Log.Warn("the stored federation list does not verify any more", "error", err)
		return c, nil
	}
	c.keep(l, time.UnixMilli(fetched))
	return c, nil
}

func (c *Consumer) keep(l *List, fetched time.Time) {
	members := make(map[id.Server]Domain, len(l.Domains))
	for _, d := range l.Domains {
		members[id.Server(strings.ToLower(string(d.Domain)))] = d
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list, c.members, c.fetched = l, members, fetched
}

// Run fetches the list now and then every hour until ctx ends.
func (c *Consumer) Run(ctx context.Context) {
	failures := 0
	for {
		wait := Interval
		if err := c.Refresh(ctx); err != nil && ctx.Err() == nil {
			if failures++; failures <= Retries {
				wait = RetryAfter
			} else {
				failures = 0
				c.incident(IncidentUnavailable, "the federation list could not be refreshed", "attempts", Retries+1, "error", err)
			}
		} else {
			failures = 0
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// Refresh fetches a newer list. A list that does not verify is refused and the old one kept (UC_Update_Federationlist_SignCheck).
func (c *Consumer) Refresh(ctx context.Context) error {
	c.refreshing.Lock()
	defer c.refreshing.Unlock()
	return c.refresh(ctx)
}

func (c *Consumer) refresh(ctx context.Context) error {
	known := int64(-1)
	c.mu.RLock()
	if c.list != nil {
		known = c.list.Version
	}
	c.mu.RUnlock()
	token, err := c.fetch(ctx, known)
	if err != nil {
		return fmt.Errorf("fetch the federation list: %w", err)
	}
	now := c.o.Now()
	if token == "" { // ours is the newest, which confirms it
		c.mu.Lock()
		c.fetched = now
		c.mu.Unlock()
		_, err := c.o.DB.Exec(ctx, "UPDATE federation_list SET fetched = $2 WHERE source = $1", c.o.URL, now.UnixMilli())
		return err
	}
	l, err := Verify(token, c.o.Trust, now, c.o.Revoked)
	if err != nil {
		c.incident(IncidentRefused, "a federation list was refused; the old one stays", "error", err)
		return err
	}
	if err := c.newer(l); err != nil {
		c.incident(IncidentOld, "an old federation list was refused", "error", err)
		return err
	}
	c.keep(l, now)
	_, err = c.o.DB.Exec(ctx, `INSERT INTO federation_list (source, version, fetched, token) VALUES ($1, $2, $3, $4)
		ON CONFLICT (source) DO UPDATE SET version = excluded.version, fetched = excluded.fetched, token = excluded.token`, c.o.URL, l.Version, now.UnixMilli(), token)
	return err
}

// newer refuses a list that is older than ours, whoever has signed it.
func (c *Consumer) newer(l *List) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.list != nil && l.Version < c.list.Version {
		return fmt.Errorf("the publisher answered version %d, older than ours, %d", l.Version, c.list.Version)
	}
	return nil
}

// fetch asks for a list newer than the known version; "" means that there is none.
func (c *Consumer) fetch(ctx context.Context, known int64) (string, error) {
	address := c.o.URL
	if known >= 0 {
		address += "?version=" + strconv.FormatInt(known, 10)
	}
	return Fetch(ctx, c.o.Client, address, c.o.Token)
}

// Fetch gets the signed list from its address, with a provider's token (nil sends none). It is "" when the address asked for a newer list than there is.
// Nothing of it may be used before [Verify].
func Fetch(ctx context.Context, client *http.Client, address string, bearer Token) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	if bearer != nil {
		token, err := bearer(ctx)
		if err != nil {
			return "", err
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusNoContent:
		return "", nil
	case http.StatusOK:
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxList+1))
		return strings.TrimSpace(string(body)), err
	}
	return "", fmt.Errorf("status %s", resp.Status)
}

// Find returns a server's entry. On a miss the list is refreshed once (A_25537). An error means that the list may not be used.
func (c *Consumer) Find(ctx context.Context, server id.Server) (Domain, bool, error) {
	d, ok, fresh := c.lookup(server)
	if ok && fresh {
		return d, true, nil
	}
	c.refreshing.Lock()
	if c.mayAsk(server) {
		if err := c.refresh(ctx); err != nil {
			c.o.Log.Warn("federation list", "error", err)
		}
	}
	c.refreshing.Unlock()
	d, ok, fresh = c.lookup(server)
	if !fresh {
		c.stale()
		return Domain{}, false, ErrStale
	}
	return d, ok, nil
}

func (c *Consumer) lookup(server id.Server) (d Domain, ok, fresh bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	d, ok = c.members[id.Server(strings.ToLower(string(server)))]
	return d, ok, c.list != nil && c.o.Now().Sub(c.fetched) <= c.o.FreshFor
}

// stale tells once an hour that the list is out of date.
func (c *Consumer) stale() {
	c.mu.Lock()
	now := c.o.Now()
	tell := now.Sub(c.told) >= Interval
	if tell {
		c.told = now
	}
	c.mu.Unlock()
	if tell {
		c.incident(IncidentStale, "the federation list is out of date; communication with other servers is blocked")
	}
}

// mayAsk bounds the requests that misses cause.
func (c *Consumer) mayAsk(server id.Server) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.o.Now(); now.Sub(c.window) >= missInterval {
		c.window, c.missed = now, map[id.Server]bool{}
	}
	if c.missed[server] || len(c.missed) >= missBurst {
		return false
	}
	c.missed[server] = true
	return true
}

// Member says whether a server is on the list and serves insured people; it implements permission.Members.
func (c *Consumer) Member(ctx context.Context, server id.Server) (listed, insurance bool, err error) {
	d, ok, err := c.Find(ctx, server)
	return ok, d.IsInsurance, err
}

// FindByIK returns the server of an insurer by its number (I_TiMessengerInformation).
func (c *Consumer) FindByIK(ik string) (id.Server, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, d := range c.members {
		for _, n := range d.IK {
			if n == ik {
				return d.Domain, true
			}
		}
	}
	return "", false
}

// Version returns the version of the list in use and how many domains it has; 0, 0 without one.
func (c *Consumer) Version() (version int64, domains int) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.list == nil {
		return 0, 0
	}
	return c.list.Version, len(c.list.Domains)
}
