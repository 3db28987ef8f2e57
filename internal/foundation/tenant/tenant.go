// SPDX-License-Identifier: Apache-2.0

package tenant

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/cache"
	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// ID is the first key of every table: a random positive 63-bit number, so that a tenant can move between cells without renumbering.
type ID int64

// State is the stage of a tenant's life.
type State string

// The states of a tenant. A closing tenant serves only its outbox; a tombstone keeps name and public keys for ever (engine rule 25).
const (
	Active    State = "active"
	Closing   State = "closing"
	Tombstone State = "tombstone"
)

// Tenant is one server of the cell. Values are shared and never changed.
type Tenant struct {
	ID    ID
	Name  id.Server
	Epoch int64 // raised when positions may repeat, after a restore (engine rule 7)
	State State
	// Insurance marks a health insurer's service for insured people (isInsurance in the federation list).
	Insurance bool
	// DisplayName is the organisation's name for people.
	DisplayName string
	// TelematikID is the organisation's identity in the telematics infrastructure; empty in plain Matrix mode.
	TelematikID string
}

// HostKind says what a host name serves.
type HostKind string

// The kinds of hosts. Server is the server name itself and serves everything.
const (
	ServerHost     HostKind = "server"
	ClientHost     HostKind = "client"
	FederationHost HostKind = "federation"
)

// ErrUnknown is answered when no tenant has the host, name or id.
var ErrUnknown = errors.New("no such tenant")

// ErrExists is answered by Create when the server name is or was taken: a name is never given to somebody else (engine rule 25).
var ErrExists = errors.New("server name is taken")

// cacheTTL is how long another node's change of a tenant or host may stay unseen (engine rule 9).
const cacheTTL = 5 * time.Second

// Store reads and creates tenants. It is safe for concurrent use.
type Store struct {
	db    *database.DB
	byKey cache.Cache[string, *Tenant] // nil values are tenants known not to be there
	// made counts creations, so that a look from before one is not remembered after it.
	made atomic.Int64
}

// NewStore returns the store of one cell.
func NewStore(db *database.DB) *Store {
	return &Store{db: db, byKey: cache.New(cache.Options[string, *Tenant]{
		Entries: 20_000,
		Written: cacheTTL,
	})}
}

// Close ends the store's upkeep in the background. Nothing is read through it afterwards.
func (s *Store) Close() { s.byKey.Close() }

// Spec is what a new tenant begins with.
type Spec struct {
	Name        id.Server
	DisplayName string
	TelematikID string
	Insurance   bool
	// ClientHosts and FederationHosts serve the tenant beside its server name.
	ClientHosts, FederationHosts []string
}

// Create makes a tenant and its host rows. It answers [ErrExists] when the name is or was taken.
func (s *Store) Create(ctx context.Context, spec Spec) (*Tenant, error) {
	made, err := s.CreateAll(ctx, []Spec{spec})
	if err != nil {
		return nil, err
	}
	return made[0], nil
}

// createTogether is how many tenants one transaction of CreateAll makes.
const createTogether = 1000

// CreateAll is Create for many, a thousand in a transaction. After an error the transactions before it stay.
func (s *Store) CreateAll(ctx context.Context, specs []Spec) ([]*Tenant, error) {
	made := make([]*Tenant, 0, len(specs))
	for chunk := range slices.Chunk(specs, createTogether) {
		tenants := make([]*Tenant, len(chunk))
		err := s.db.Write(ctx, func(tx *database.Tx) (err error) {
			for i, spec := range chunk {
				if tenants[i], err = create(ctx, tx, spec); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		s.made.Add(1)
		for _, spec := range chunk { // somebody may have asked for them before they were there
			s.byKey.Invalidate("name:" + string(spec.Name))
			for _, host := range slices.Concat([]string{string(spec.Name)}, spec.ClientHosts, spec.FederationHosts) {
				s.byKey.Invalidate("host:" + strings.ToLower(host))
			}
		}
		made = append(made, tenants...)
	}
	return made, nil
}

func create(ctx context.Context, tx *database.Tx, spec Spec) (*Tenant, error) {
	t := &Tenant{ID: newID(), Name: spec.Name, Epoch: 1, State: Active, Insurance: spec.Insurance, DisplayName: spec.DisplayName, TelematikID: spec.TelematikID}
	n, err := tx.Exec(ctx, `INSERT INTO tenant (tenant, name, epoch, position, state, insurance, display_name, telematik_id, created)
		VALUES ($1, $2, $3, 0, $4, $5, $6, $7, $8) ON CONFLICT (name) DO NOTHING`,
		int64(t.ID), string(t.Name), t.Epoch, string(t.State), t.Insurance, t.DisplayName, t.TelematikID, time.Now().UnixMilli())
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, fmt.Errorf("%w: %s", ErrExists, spec.Name)
	}
	if err := addHosts(ctx, tx, t.ID, ServerHost, []string{string(spec.Name)}); err != nil {
		return nil, err
	}
	if err := addHosts(ctx, tx, t.ID, ClientHost, spec.ClientHosts); err != nil {
		return nil, err
	}
	return t, addHosts(ctx, tx, t.ID, FederationHost, spec.FederationHosts)
}

func addHosts(ctx context.Context, tx *database.Tx, t ID, kind HostKind, hosts []string) error {
	for _, host := range hosts {
		n, err := tx.Exec(ctx, "INSERT INTO host (host, kind, tenant) VALUES ($1, $2, $3) ON CONFLICT (host, kind) DO NOTHING",
			strings.ToLower(host), string(kind), int64(t))
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%w: host %s", ErrExists, host)
		}
	}
	return nil
}

const selectTenant = `SELECT t.tenant, t.name, t.epoch, t.state, t.insurance, t.display_name, t.telematik_id FROM tenant t `

func scan(row interface{ Scan(...any) error }) (*Tenant, error) {
	var t Tenant
	err := row.Scan(&t.ID, &t.Name, &t.Epoch, &t.State, &t.Insurance, &t.DisplayName, &t.TelematikID)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrUnknown
	}
	if err != nil {
		return nil, err
	}
	return &t, nil
}

// find answers from the cache or by the query. That there is no such tenant is remembered too: shared client hosts and the names of other
// servers are asked for with every request.
func (s *Store) find(ctx context.Context, key, query string, args ...any) (*Tenant, error) {
	t, ok := s.byKey.Get(key)
	if !ok {
		made := s.made.Load()
		var err error
		if t, err = scan(s.db.QueryRow(ctx, query, args...)); err != nil && !errors.Is(err, ErrUnknown) {
			return nil, err
		}
		if t != nil || made == s.made.Load() {
			s.byKey.Set(key, t)
		}
	}
	if t == nil {
		return nil, ErrUnknown
	}
	return t, nil
}

// ByID finds a tenant by its key.
func (s *Store) ByID(ctx context.Context, t ID) (*Tenant, error) {
	return s.find(ctx, "id:"+strconv.FormatInt(int64(t), 10), selectTenant+"WHERE t.tenant = $1", int64(t))
}

// ByName finds a tenant by its server name.
func (s *Store) ByName(ctx context.Context, name id.Server) (*Tenant, error) {
	return s.find(ctx, "name:"+string(name), selectTenant+"WHERE t.name = $1", string(name))
}

// ByHost finds the tenant that a Host header (or :authority) names for clients or federation: the exact host first, then without its port.
func (s *Store) ByHost(ctx context.Context, host string) (*Tenant, error) {
	host = strings.ToLower(host)
	t, err := s.byExactHost(ctx, host)
	if !errors.Is(err, ErrUnknown) {
		return t, err
	}
	name, _, splitErr := net.SplitHostPort(host)
	if splitErr != nil || name == "" {
		return nil, err
	}
	if strings.Contains(name, ":") {
		name = "[" + name + "]" // IPv6 literal
	}
	return s.byExactHost(ctx, name)
}

func (s *Store) byExactHost(ctx context.Context, host string) (*Tenant, error) {
	return s.find(ctx, "host:"+host, selectTenant+"JOIN host h ON h.tenant = t.tenant WHERE h.host = $1 LIMIT 1", host)
}

// All lists tenants in the order of their names, a page at a time: up to limit names after the given one.
func (s *Store) All(ctx context.Context, after id.Server, limit int) ([]*Tenant, error) {
	rows, err := s.db.Query(ctx, selectTenant+"WHERE t.name > $1 ORDER BY t.name LIMIT $2", string(after), limit)
	return database.All(rows, err, func(r *sql.Rows) (*Tenant, error) { return scan(r) })
}

// OfOrganisation lists the tenants of a Telematik-ID in the order of their names, whatever their state.
func (s *Store) OfOrganisation(ctx context.Context, telematikID string) ([]*Tenant, error) {
	rows, err := s.db.Query(ctx, selectTenant+"WHERE t.telematik_id = $1 ORDER BY t.name", telematikID)
	return database.All(rows, err, func(r *sql.Rows) (*Tenant, error) { return scan(r) })
}

// SetState moves a tenant on in its life. Other nodes see it within seconds.
func (s *Store) SetState(ctx context.Context, t *Tenant, state State) error {
	if _, err := s.db.Exec(ctx, "UPDATE tenant SET state = $2 WHERE tenant = $1", int64(t.ID), string(state)); err != nil {
		return err
	}
	s.Changed(t)
	return nil
}

// Changed forgets what is remembered of a tenant whose row has changed; what other nodes and its further hosts remember ends within seconds.
func (s *Store) Changed(t *Tenant) {
	for _, key := range []string{"id:" + strconv.FormatInt(int64(t.ID), 10), "name:" + string(t.Name), "host:" + string(t.Name)} {
		s.byKey.Invalidate(key)
	}
}

func newID() ID {
	var b [8]byte
	rand.Read(b[:])
	return ID(binary.BigEndian.Uint64(b[:])>>1 | 1)
}

type contextKey struct{}

// With returns a context that carries the tenant of a request.
func With(ctx context.Context, t *Tenant) context.Context {
	return context.WithValue(ctx, contextKey{}, t)
}

// From returns the tenant that the edge put into the request's context, or nil.
func From(ctx context.Context) *Tenant {
	t, _ := ctx.Value(contextKey{}).(*Tenant)
	return t
}
