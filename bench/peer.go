// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
)

// peer is a scripted server of the federation: it has one room of version 11, in which all its users are, lets the measured server join, and
// sends it messages. It makes and signs its events itself, so that nothing of the measured server's code measures itself.
type peer struct {
	name, room string
	key        ed25519.PrivateKey
	serving    *http.Server
	address    string
	authority  string // PEM file

	// the room
	state, chain []signedEvent
	auth         []string // auth events of a join: create, join rules, power levels
	tip          string
	depth        int64
	members      []string

	// joined is when the answer to send_join was complete, in ns since the epoch; joiner the event that was sent.
	joined atomic.Int64
	joins  chan joinedEvent
}

type joinedEvent struct {
	id    string
	depth int64
}

type signedEvent struct {
	id   string
	json []byte
}

type object = map[string]any

const keyID = "ed25519:bench"

// canonical is canonical JSON for what the peer makes: ASCII names, whole numbers.
func canonical(v any) []byte {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		panic(err) // a programming error: only maps, strings and numbers come here
	}
	return b
}

func unpadded(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }

// kept is the content that a redaction in room version 11 leaves, by event type; nil leaves nothing, absent types nothing either.
var kept = map[string][]string{
	"m.room.member":       {"membership", "join_authorised_via_users_server"},
	"m.room.join_rules":   {"join_rule", "allow"},
	"m.room.power_levels": {"ban", "events", "events_default", "invite", "kick", "redact", "state_default", "users", "users_default"},
}

// sign completes an event of room version 11: content hash, signature, id.
func (p *peer) sign(e object) signedEvent {
	sum := sha256.Sum256(canonical(e))
	e["hashes"] = object{"sha256": unpadded(sum[:])}
	redacted := object{}
	for k, v := range e {
		redacted[k] = v
	}
	content := object{}
	if e["type"] == "m.room.create" {
		content = e["content"].(object)
	}
	for _, k := range kept[e["type"].(string)] {
		if v, ok := e["content"].(object)[k]; ok {
			content[k] = v
		}
	}
	redacted["content"] = content
	reference := canonical(redacted)
	id := sha256.Sum256(reference)
	e["signatures"] = object{p.name: object{keyID: unpadded(ed25519.Sign(p.key, reference))}}
	return signedEvent{"$" + base64.RawURLEncoding.EncodeToString(id[:]), canonical(e)}
}

// event makes the room's next event.
func (p *peer) event(typ, sender string, stateKey *string, content object, auth []string) signedEvent {
	p.depth++
	e := object{"type": typ, "sender": sender, "room_id": p.room, "content": content, "auth_events": auth, "depth": p.depth,
		"origin_server_ts": time.Now().UnixMilli(), "prev_events": []string{}}
	if p.tip != "" {
		e["prev_events"] = []string{p.tip}
	}
	if stateKey != nil {
		e["state_key"] = *stateKey
	}
	s := p.sign(e)
	p.tip = s.id
	return s
}

// newPeer makes a server with a room of n members and begins to answer.
func newPeer(folder string, n int) (*peer, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	p := &peer{name: "peer.localhost", room: "!bench:peer.localhost", key: private, joins: make(chan joinedEvent, 16)}
	p.fill(n)
	return p, p.serve(folder)
}

// fill makes the room.
func (p *peer) fill(n int) {
	empty := ""
	user := func(i int) string { return fmt.Sprintf("@member%d:%s", i, p.name) }
	first := user(0)
	create := p.event("m.room.create", first, &empty, object{"room_version": "11"}, []string{})
	join := p.event("m.room.member", first, &first, object{"membership": "join"}, []string{create.id})
	levels := p.event("m.room.power_levels", first, &empty, object{"users": object{first: 100}}, []string{create.id, join.id})
	rules := p.event("m.room.join_rules", first, &empty, object{"join_rule": "public"}, []string{create.id, join.id, levels.id})
	p.state = append(p.state, create, join, levels, rules)
	p.auth = []string{create.id, levels.id, rules.id}
	p.members = append(p.members, first)
	for i := 1; i < n; i++ {
		u := user(i)
		p.state = append(p.state, p.event("m.room.member", u, &u, object{"membership": "join", "displayname": fmt.Sprintf("Member %d", i)}, p.auth))
		p.members = append(p.members, u)
	}
	p.chain = p.state[:4]
}

// serve answers over TLS with a certificate of the peer's own authority.
func (p *peer) serve(folder string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: p.name}, DNSNames: []string{p.name}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	p.authority = filepath.Join(folder, "peer.pem")
	if err := os.WriteFile(p.authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	p.address = l.Addr().String()
	p.serving = &http.Server{Handler: p.routes(), ReadHeaderTimeout: time.Minute,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}}
	go p.serving.ServeTLS(l, "", "") //nolint:errcheck // it ends with close
	return nil
}

func (p *peer) close() { p.serving.Close() }

func (p *peer) routes() http.Handler {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.Write(canonical(v)) //nolint:errcheck // the other side sees it
	}
	mux.HandleFunc("GET /_matrix/key/v2/server", func(w http.ResponseWriter, _ *http.Request) {
		doc := object{"server_name": p.name, "valid_until_ts": time.Now().Add(24 * time.Hour).UnixMilli(), "old_verify_keys": object{},
			"verify_keys": object{keyID: object{"key": unpadded(p.key.Public().(ed25519.PublicKey))}}}
		doc["signatures"] = object{p.name: object{keyID: unpadded(ed25519.Sign(p.key, canonical(doc)))}}
		answer(w, doc)
	})
	mux.HandleFunc("GET /_matrix/federation/v1/make_join/{room}/{user}", func(w http.ResponseWriter, r *http.Request) {
		user := r.PathValue("user")
		answer(w, object{"room_version": "11", "event": object{"type": "m.room.member", "sender": user, "state_key": user, "room_id": p.room,
			"content": object{"membership": "join"}, "auth_events": p.auth, "prev_events": []string{p.tip}, "depth": p.depth + 1,
			"origin_server_ts": time.Now().UnixMilli()}})
	})
	mux.HandleFunc("PUT /_matrix/federation/v2/send_join/{room}/{event}", func(w http.ResponseWriter, r *http.Request) {
		var b bytes.Buffer
		b.WriteString(`{"members_omitted":false,"auth_chain":[`)
		writeList(&b, p.chain)
		b.WriteString(`],"state":[`)
		writeList(&b, p.state)
		b.WriteString(`]}`)
		w.Write(b.Bytes()) //nolint:errcheck // as above
		p.joined.Store(time.Now().UnixNano())
		p.joins <- joinedEvent{r.PathValue("event"), p.depth + 1}
	})
	mux.HandleFunc("PUT /_matrix/federation/v1/send/{txn}", func(w http.ResponseWriter, _ *http.Request) { answer(w, object{"pdus": object{}}) })
	return mux
}

func writeList(b *bytes.Buffer, events []signedEvent) {
	for i, e := range events {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(e.json)
	}
}

// transaction is a signed request that a bench sends later.
type transaction struct {
	path, authorization string
	body                []byte
	events              int
}

// transactions makes messages of the room's members in transactions of 50, in one line after the joined server's own event.
func (p *peer) transactions(destination string, after joinedEvent, n int) []transaction {
	p.tip, p.depth = after.id, after.depth
	var out []transaction
	member := make(map[string]string, len(p.members))
	for _, e := range p.state {
		var head struct {
			Type     string `json:"type"`
			StateKey string `json:"state_key"`
		}
		if json.Unmarshal(e.json, &head) == nil && head.Type == "m.room.member" {
			member[head.StateKey] = e.id
		}
	}
	for i := 0; i < n; i += 50 {
		var b bytes.Buffer
		fmt.Fprintf(&b, `{"edus":[],"origin":%q,"origin_server_ts":%d,"pdus":[`, p.name, time.Now().UnixMilli())
		count := min(50, n-i)
		events := make([]signedEvent, count)
		for j := range events {
			sender := p.members[(i+j)%len(p.members)]
			events[j] = p.event("m.room.encrypted", sender, nil, object{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": strings.Repeat("Aw", ciphertext/2),
				"device_id": "BENCHDEVIC", "sender_key": strings.Repeat("k", 43), "session_id": strings.Repeat("s", 43)},
				[]string{p.auth[0], p.auth[1], member[sender]})
		}
		writeList(&b, events)
		b.WriteString("]}")
		path := fmt.Sprintf("/_matrix/federation/v1/send/bench%d", i)
		out = append(out, transaction{path, p.authorize("PUT", path, destination, b.Bytes()), b.Bytes(), count})
	}
	return out
}

// authorize signs a request whose body is canonical already.
func (p *peer) authorize(method, uri, destination string, body []byte) string {
	content := ""
	if body != nil {
		content = `"content":` + string(body) + ","
	}
	text := fmt.Sprintf(`{%s"destination":%q,"method":%q,"origin":%q,"uri":%q}`, content, destination, method, p.name, uri)
	return fmt.Sprintf(`X-Matrix origin="%s",destination="%s",key="%s",sig="%s"`, p.name, destination, keyID, unpadded(ed25519.Sign(p.key, []byte(text))))
}

// deliver sends transactions over one connection, as a server does that waits for each answer.
func deliver(address, host string, list []transaction) error {
	c := &http.Client{Timeout: 2 * time.Minute}
	defer c.CloseIdleConnections()
	for _, t := range list {
		req, err := http.NewRequest("PUT", (&url.URL{Scheme: "http", Host: address, Path: t.path}).String(), bytes.NewReader(t.body))
		if err != nil {
			return err
		}
		req.Host = host
		req.Header.Set("Authorization", t.authorization)
		req.Header.Set("Content-Type", "application/json")
		res, err := c.Do(req)
		if err != nil {
			return err
		}
		var answer struct {
			Problem string `json:"error"`
			PDUs    map[string]struct {
				Error string `json:"error"`
			} `json:"pdus"`
		}
		err = json.UnmarshalRead(res.Body, &answer)
		res.Body.Close()
		if res.StatusCode != 200 || err != nil {
			return errors.Join(fmt.Errorf("transaction: status %d: %s", res.StatusCode, answer.Problem), err)
		}
		if len(answer.PDUs) != t.events {
			return fmt.Errorf("transaction: %d of %d events answered", len(answer.PDUs), t.events)
		}
		for id, r := range answer.PDUs {
			if r.Error != "" {
				return fmt.Errorf("event %s: %s", id, r.Error)
			}
		}
	}
	return nil
}
