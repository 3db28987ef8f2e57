// SPDX-License-Identifier: Apache-2.0

package clientsync

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"maps"
	"slices"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

const (
	// maxConnections is how many connections a device keeps; the one not used for longest goes.
	maxConnections = 20
	// connectionLife is how long a connection that nobody uses is kept, in ms.
	connectionLife = 30 * 24 * 3600 * 1000
	// The cache of connections: bytes altogether, of each and of each room in it.
	connectionBytes, connOverhead, connRoomSize = 64 << 20, 512, 64
	// formVersion is the first byte of a stored generation.
	formVersion = 1
)

type connKey struct {
	tenant tenant.ID
	user   id.User
	device id.Device
	conn   string
}

// sum is the checksum of a connection's name for a token.
func (k *connKey) sum() uint32 { return crc32.ChecksumIEEE([]byte(k.conn)) }

// connection is a row of sliding_connection: the two newest generations (engine rule 30). It is never changed once it is in the cache.
type connection struct {
	newest, previous *generation
}

// generation is what the client has been sent on a connection, as far as the position in its token does not say it. It is never changed.
type generation struct {
	// id is drawn anew for each, so that two nodes never give one id to different contents; 0 is the beginning.
	id    int64
	rooms map[int64]sentRoom
}

// sentRoom is what the client has of a room.
type sentRoom struct {
	// at is the position up to which it has the room; 0 is that of its token.
	at int64
	// limit is how many of the newest events it has been given at least.
	limit int
	// wishes is the text of what state it was promised.
	wishes string
	// joined: it has been sent as a room the user is or was in, direct: as a direct chat.
	joined, direct bool
}

func (g *generation) equal(o *generation) bool { return maps.Equal(g.rooms, o.rooms) }

// encode writes a generation's content.
func (g *generation) encode() []byte {
	var texts []string
	b := []byte{formVersion}
	b = binary.AppendUvarint(b, uint64(len(g.rooms)))
	for _, nid := range slices.Sorted(maps.Keys(g.rooms)) {
		r := g.rooms[nid]
		i := slices.Index(texts, r.wishes)
		if i < 0 {
			i, texts = len(texts), append(texts, r.wishes)
		}
		flags := uint64(0)
		if r.joined {
			flags |= 1
		}
		if r.direct {
			flags |= 2
		}
		b = binary.AppendVarint(b, nid)
		b = binary.AppendVarint(b, r.at)
		for _, n := range []uint64{uint64(r.limit), uint64(i), flags} {
			b = binary.AppendUvarint(b, n)
		}
	}
	for _, t := range texts {
		b = binary.AppendUvarint(b, uint64(len(t)))
		b = append(b, t...)
	}
	return b
}

// decodeGeneration reads what encode wrote; nil for anything else.
func decodeGeneration(number int64, raw []byte) *generation {
	if number == 0 {
		return &generation{rooms: map[int64]sentRoom{}}
	}
	r := bytes.NewReader(raw)
	bad := false
	uvarint := func() uint64 { v, err := binary.ReadUvarint(r); bad = bad || err != nil; return v }
	varint := func() int64 { v, err := binary.ReadVarint(r); bad = bad || err != nil; return v }
	if v, err := r.ReadByte(); err != nil || v != formVersion {
		return nil
	}
	n := uvarint()
	g := &generation{id: number, rooms: map[int64]sentRoom{}}
	wishes := map[int64]uint64{}
	for range n {
		nid, at := varint(), varint()
		limit, i, flags := uvarint(), uvarint(), uvarint()
		if bad {
			return nil
		}
		g.rooms[nid] = sentRoom{at: at, limit: int(limit), joined: flags&1 != 0, direct: flags&2 != 0}
		wishes[nid] = i
	}
	var texts []string
	for r.Len() > 0 {
		text := make([]byte, min(uvarint(), uint64(r.Len())))
		if _, err := r.Read(text); err != nil || bad {
			return nil
		}
		texts = append(texts, string(text))
	}
	for nid, s := range g.rooms {
		if wishes[nid] >= uint64(len(texts)) {
			return nil
		}
		s.wishes = texts[wishes[nid]]
		g.rooms[nid] = s
	}
	return g
}

// generation finds what a token says the client has. M_UNKNOWN_POS when that is no longer known: the client begins anew.
func (s *Service) generation(ctx context.Context, key connKey, number int64) (*generation, error) {
	c, ok := s.connections.Get(key)
	if g := c.of(number); ok && g != nil {
		return g, nil
	}
	c, err := s.loadConnection(ctx, key)
	if err != nil {
		return nil, err
	}
	g := c.of(number)
	if g == nil {
		return nil, mxerror.UnknownPos
	}
	s.connections.Set(key, c)
	return g, nil
}

// of returns one of the two generations, or nil.
func (c *connection) of(number int64) *generation {
	switch {
	case c == nil || number == 0:
		return nil
	case c.newest.id == number:
		return c.newest
	case c.previous.id == number:
		return c.previous
	}
	return nil
}

func (s *Service) loadConnection(ctx context.Context, key connKey) (*connection, error) {
	var newest, previous int64
	var content, before []byte
	err := s.o.DB.QueryRow(ctx, `SELECT generation, content, previous, previous_content FROM sliding_connection
		WHERE tenant = $1 AND user_id = $2 AND device = $3 AND conn_id = $4`, int64(key.tenant), string(key.user), string(key.device), key.conn).
		Scan(&newest, &content, &previous, &before)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c := &connection{decodeGeneration(newest, content), decodeGeneration(previous, before)}
	if c.newest == nil || c.previous == nil {
		return nil, nil // written by another version of this program
	}
	return c, nil
}

// keep stores the generation that an answer leads to, before it is sent, with the one that the client came with.
func (s *Service) keep(ctx context.Context, key connKey, before, next *generation) error {
	next.id = database.NewID()
	now := time.Now().UnixMilli()
	statements := []stream.Statement{{
		SQL: `INSERT INTO sliding_connection (tenant, user_id, device, conn_id, generation, content, previous, previous_content, used)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (tenant, user_id, device, conn_id) DO UPDATE SET generation = excluded.generation,
			content = excluded.content, previous = excluded.previous, previous_content = excluded.previous_content, used = excluded.used`,
		Args: []any{int64(key.tenant), string(key.user), string(key.device), key.conn, next.id, next.encode(), before.id, before.encode(), now}}}
	if before.id == 0 { // a new connection clears what nobody uses
		statements = append(statements, stream.Statement{
			SQL: `DELETE FROM sliding_connection WHERE tenant = $1 AND user_id = $2 AND device = $3 AND conn_id IN (SELECT conn_id FROM sliding_connection
				WHERE tenant = $1 AND user_id = $2 AND device = $3 ORDER BY used DESC, conn_id LIMIT 1000 OFFSET $4)`,
			Args: []any{int64(key.tenant), string(key.user), string(key.device), maxConnections}},
			stream.Statement{SQL: "DELETE FROM sliding_connection WHERE tenant = $1 AND used < $2", Args: []any{int64(key.tenant), now - connectionLife}})
	}
	if err := s.write(ctx, key.tenant, statements); err != nil {
		return err
	}
	s.connections.Set(key, &connection{next, before})
	return nil
}

// write stores rows that may be lost with the last moments before a crash: the client begins anew then. On SQLite they ride in the committer's
// next batch, on PostgreSQL they are written alone and not waited for on the disk (engine rule 30).
func (s *Service) write(ctx context.Context, t tenant.ID, statements []stream.Statement) error {
	if !s.o.DB.Postgres() {
		_, err := s.o.Committer.Commit(ctx, &stream.Plan{Tenant: t, Rows: statements})
		return err
	}
	return s.o.DB.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = off"); err != nil {
			return err
		}
		for _, st := range statements {
			if _, err := tx.Exec(ctx, st.SQL, st.Args...); err != nil {
				return err
			}
		}
		return nil
	})
}

// DevicesRemoved adds to the plan that removes devices the rows of their connections. Package account calls it by way of the composition root.
func (s *Service) DevicesRemoved(t *tenant.Tenant, user id.User, devices []id.Device, plan *stream.Plan) {
	for _, d := range devices {
		plan.Rows = append(plan.Rows, stream.Statement{SQL: "DELETE FROM sliding_connection WHERE tenant = $1 AND user_id = $2 AND device = $3",
			Args: []any{int64(t.ID), string(user), string(d)}})
	}
}
