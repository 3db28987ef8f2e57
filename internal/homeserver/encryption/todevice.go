// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// messages are contents by user and device; "*" is every device.
type messages map[id.User]map[id.Device]jsontext.Value

const allDevices = "*"

// txnLife is how long a transaction id of /sendToDevice is remembered, seenLife how long a message id of another server.
const (
	txnLife  = 24 * time.Hour
	seenLife = 7 * 24 * time.Hour
)

// Bounds of one request and of the EDUs made of it.
const (
	maxToDevice   = 10_000
	maxEDUContent = 48 << 10 // bytes
)

// toDeviceEDU is the content of an m.direct_to_device EDU.
type toDeviceEDU struct {
	Sender    id.User  `json:"sender"`
	Type      string   `json:"type"`
	MessageID string   `json:"message_id"`
	Messages  messages `json:"messages"`
}

func (s *Service) sendToDevice(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		Messages messages `json:"messages"`
	}
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if q.Messages == nil {
		return nil, mxerror.MissingParam.With("messages is missing")
	}
	if err := q.Messages.check(); err != nil {
		return nil, err
	}
	t, sender, typ := r.Tenant, r.Session.User, r.Var("eventType")
	key := []any{int64(t.ID), string(sender), string(r.Session.Device), typ, r.Var("txnId")}
	plan := &stream.Plan{
		Tenant: t.ID,
		Unique: []string{"to_device:" + string(sender) + "\x00" + string(r.Session.Device) + "\x00" + typ + "\x00" + r.Var("txnId")},
		Guard: &stream.Statement{SQL: `INSERT INTO to_device_txn (tenant, user_id, device, type, txn, created) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT DO NOTHING`, Args: append(key, s.now())},
		Rows: []stream.Statement{{SQL: "DELETE FROM to_device_txn WHERE tenant = $1 AND user_id = $2 AND device = $3 AND created < $4",
			Args: []any{int64(t.ID), string(sender), string(r.Session.Device), s.now() - txnLife.Milliseconds()}}},
	}
	if err := s.deliver(ctx, t, sender, typ, q.Messages, plan); err != nil {
		return nil, err
	}
	if err := s.forward(ctx, t, sender, typ, q.Messages, plan); err != nil {
		return nil, err
	}
	if _, err := s.o.Committer.Commit(ctx, plan); err != nil && !errors.Is(err, stream.ErrStale) {
		return nil, err
	}
	return nil, nil // a transaction id seen before has done its work already
}

func (m messages) check() error {
	n := 0
	for user, devices := range m {
		if _, err := id.ParseUser(string(user)); err != nil {
			return mxerror.InvalidParam.With("%q is no user id", user)
		}
		for device, content := range devices {
			if content.Kind() != '{' {
				return mxerror.BadJSON.With("the message for %s must be an object", device)
			}
			n++
		}
	}
	if n > maxToDevice {
		return mxerror.TooLarge.With("more than %d messages at once", maxToDevice)
	}
	return nil
}

// deliver adds messages for the tenant's own users to the plan. All of a request share one position: no device gets two of them.
func (s *Service) deliver(ctx context.Context, t *tenant.Tenant, sender id.User, typ string, m messages, plan *stream.Plan) error {
	at := stream.At(len(plan.Changes))
	var users []id.User
	for _, user := range slices.Sorted(maps.Keys(m)) {
		if user.Server() != t.Name {
			continue
		}
		devices, err := s.o.Accounts.Devices(ctx, t.ID, user)
		if err != nil {
			return err
		}
		reached := false
		for _, d := range devices {
			content, ok := m[user][d.ID]
			if !ok {
				content, ok = m[user][allDevices]
			}
			if !ok {
				continue
			}
			reached = true
			message, err := json.Marshal(toDeviceMessage{sender, typ, content}, jsontext.AllowDuplicateNames(true))
			if err != nil {
				return mxerror.BadJSON.With("a message is not valid JSON")
			}
			plan.Positioned = append(plan.Positioned, stream.Statement{
				SQL:  "INSERT INTO to_device (tenant, user_id, device, position, message) VALUES ($1, $2, $3, $4, $5)",
				Args: []any{int64(t.ID), string(user), string(d.ID), at, string(message)},
			})
		}
		if reached {
			users = append(users, user)
		}
	}
	if len(users) > 0 {
		plan.Changes = append(plan.Changes, stream.Change{Kind: stream.ToDevice, Users: users})
	}
	return nil
}

type toDeviceMessage struct {
	Sender  id.User        `json:"sender"`
	Type    string         `json:"type"`
	Content jsontext.Value `json:"content"`
}

// forward adds EDUs for other servers to the plan. Servers that the tenant may not talk with get nothing.
func (s *Service) forward(ctx context.Context, t *tenant.Tenant, sender id.User, typ string, m messages, plan *stream.Plan) error {
	byServer := map[id.Server][]id.User{}
	for _, user := range slices.Sorted(maps.Keys(m)) {
		if server := user.Server(); server != t.Name && len(m[user]) > 0 {
			byServer[server] = append(byServer[server], user)
		}
	}
	for _, server := range slices.Sorted(maps.Keys(byServer)) {
		if s.o.Policy != nil && s.o.Policy.Federate(ctx, t, server) != nil {
			continue
		}
		part, size := messages{}, 0
		flush := func() error {
			if size == 0 {
				return nil
			}
			content, err := json.Marshal(toDeviceEDU{sender, typ, messageID(), part}, json.Deterministic(true), jsontext.AllowDuplicateNames(true))
			if err != nil {
				return mxerror.BadJSON.With("a message is not valid JSON")
			}
			plan.Positioned = append(plan.Positioned, stream.Statement{
				SQL:  "INSERT INTO to_device_outgoing (tenant, destination, position, content) VALUES ($1, $2, $3, $4)",
				Args: []any{int64(t.ID), string(server), stream.At(len(plan.Changes)), string(content)},
			})
			plan.Changes = append(plan.Changes, stream.Change{Kind: stream.ToDevice})
			part, size = messages{}, 0
			return nil
		}
		for _, user := range byServer[server] {
			for _, device := range slices.Sorted(maps.Keys(m[user])) {
				content := m[user][device]
				if size > 0 && size+len(content) > maxEDUContent {
					if err := flush(); err != nil {
						return err
					}
				}
				if part[user] == nil {
					part[user] = map[id.Device]jsontext.Value{}
				}
				part[user][device] = content
				size += len(content) + len(user) + len(device)
			}
		}
		if err := flush(); err != nil {
			return err
		}
		plan.Outbox = append(plan.Outbox, server)
	}
	return nil
}

func messageID() string {
	b := make([]byte, 18)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// ReceiveToDevice takes an m.direct_to_device EDU. The same message id of the same server is delivered once.
func (s *Service) ReceiveToDevice(ctx context.Context, t *tenant.Tenant, origin id.Server, content jsontext.Value) error {
	var e toDeviceEDU
	if json.Unmarshal(content, &e, jsontext.AllowDuplicateNames(true)) != nil || e.Sender.Server() != origin || e.Type == "" || e.MessageID == "" ||
		len(e.MessageID) > 255 || e.Messages.check() != nil {
		return nil
	}
	plan := &stream.Plan{
		Tenant: t.ID,
		Unique: []string{"to_device_seen:" + string(origin) + "\x00" + e.MessageID},
		Guard: &stream.Statement{SQL: "INSERT INTO to_device_seen (tenant, origin, message_id, received) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
			Args: []any{int64(t.ID), string(origin), e.MessageID, s.now()}},
		Rows: []stream.Statement{{SQL: "DELETE FROM to_device_seen WHERE tenant = $1 AND origin = $2 AND received < $3",
			Args: []any{int64(t.ID), string(origin), s.now() - seenLife.Milliseconds()}}},
	}
	if err := s.deliver(ctx, t, e.Sender, e.Type, e.Messages, plan); err != nil {
		return err
	}
	if _, err := s.o.Committer.Commit(ctx, plan); err != nil && !errors.Is(err, stream.ErrStale) {
		return err
	}
	return nil
}

// ToDeviceMessage is a message waiting for a device, as /sync shows it.
type ToDeviceMessage struct {
	Position int64
	JSON     jsontext.Value
}

// ToDevice returns at most limit messages waiting for a device with positions in (after, upTo], oldest first. They stay until [Service.Acknowledge].
func (s *Service) ToDevice(ctx context.Context, t tenant.ID, user id.User, device id.Device, after, upTo int64, limit int) ([]ToDeviceMessage, error) {
	rows, err := s.db.Query(ctx, `SELECT position, message FROM to_device WHERE tenant = $1 AND user_id = $2 AND device = $3 AND position > $4 AND position <= $5
		ORDER BY position LIMIT $6`, int64(t), string(user), string(device), after, upTo, limit)
	return database.All(rows, err, func(rows *sql.Rows) (ToDeviceMessage, error) {
		var m ToDeviceMessage
		var text []byte
		err := rows.Scan(&m.Position, &text)
		m.JSON = bytes.Clone(text)
		return m, err
	})
}

// Acknowledge deletes the messages up to a position that the device has shown to have received (engine rule 28). It writes only when there are any.
func (s *Service) Acknowledge(ctx context.Context, t tenant.ID, user id.User, device id.Device, upTo int64) error {
	key := []any{int64(t), string(user), string(device), upTo}
	var n int64
	err := s.db.QueryRow(ctx, `SELECT COUNT(*) FROM (SELECT 1 FROM to_device WHERE tenant = $1 AND user_id = $2 AND device = $3 AND position <= $4 LIMIT 1) AS found`,
		key...).Scan(&n)
	if err != nil || n == 0 {
		return err
	}
	_, err = s.db.Exec(ctx, "DELETE FROM to_device WHERE tenant = $1 AND user_id = $2 AND device = $3 AND position <= $4", key...)
	return err
}
