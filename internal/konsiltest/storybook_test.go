// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/konsiltest"
)

// storybook writes down what was answered, with names in place of what is drawn by chance.
type storybook struct {
	t                 *testing.T
	lines             []string
	names             map[string]string
	network           *konsiltest.Network
	praxis, klinik    *konsiltest.Cell
	identity          *konsiltest.Peer
	anna, berta, carl *konsiltest.Session
	rooms             []string
	hall              string // a room in which all three are from the beginning
	txn               int
}

const client = "/_matrix/client/v3/"

// patience only ends a story that hangs.
const patience = 2 * time.Minute

// chapters is the whole story: every scenario of two servers.
func (s *storybook) chapters() map[string]func() {
	return map[string]func(){
		"private room": s.privateRoom, "public room": s.publicRoom, "spaces": s.spaces, "people": s.people, "invitations": s.invitations, "bans": s.bans,
		"upgrade": s.upgrade, "history": s.history, "relations": s.relations, "ephemeral": s.ephemeral, "media": s.media, "devices": s.devices,
		"leaving": s.leaving, "policy server": s.policyServer, "stranger": s.stranger,
	}
}

// tell tells all chapters and what everybody sees in the end.
func (s *storybook) tell() {
	chapters := s.chapters()
	names := make([]string, 0, len(chapters))
	for name := range chapters {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		s.note("— %s —", name)
		chapters[name]()
	}
	s.note("— what everybody sees —")
	s.views()
}

// configure is what every cell of the story needs: the identity server, and klinik.test as a policy server.
func (s *storybook) configure(c *config.Config) {
	s.identity.Known(c)
	c.Federation.Identity = []string{s.identity.Name}
	for i, t := range c.Tenants {
		if t.Name == "klinik.test" {
			c.Tenants[i].PolicyServer = config.PolicyServer{Servers: []string{"*.test"}, RefuseTypes: []string{"org.example.advert*"}}
		}
	}
}

// begin signs the three people in.
func (s *storybook) begin(n *konsiltest.Network, praxis, klinik *konsiltest.Cell) {
	s.network, s.praxis, s.klinik = n, praxis, klinik
	s.anna, s.berta, s.carl = praxis.SignIn(s.t, "@anna:praxis.test"), klinik.SignIn(s.t, "@berta:klinik.test"), klinik.SignIn(s.t, "@carl:klinik.test")
	for who, session := range map[string]*konsiltest.Session{"device of anna": s.anna, "device of berta": s.berta, "device of carl": s.carl} {
		s.names[session.Device] = who
	}
	s.hall = s.anna.CreateRoom(map[string]any{"preset": "public_chat"})
	for _, who := range []*konsiltest.Session{s.berta, s.carl} {
		who.Join(s.hall, "praxis.test")
	}
}

// try asks and writes down status and error code; it returns the answer. A path without a slash at its beginning is one of the client API.
func (s *storybook) try(who *konsiltest.Session, method, path string, body any) map[string]any {
	s.t.Helper()
	whole := path
	if !strings.HasPrefix(path, "/") {
		whole = client + path
	}
	status, answer := who.Try(method, whole, body)
	s.note("%s %s %s: %d %v", who.User, method, path, status, cmp.Or(answer["errcode"], any("")))
	return answer
}

// drawn are values that nobody has given a name: event ids, room ids, signatures.
var drawn = regexp.MustCompile(`[$!][A-Za-z0-9_-]{43}(:[a-z.]+)?|![A-Za-z0-9]{10,}:[a-z.]+|[A-Za-z0-9+/]{86}`)

func (s *storybook) note(format string, args ...any) {
	s.lines = append(s.lines, drawn.ReplaceAllString(s.named(fmt.Sprintf(format, args...)), "<drawn>"))
}

// named puts names in place of what was drawn by chance.
func (s *storybook) named(line string) string {
	for value, name := range s.names {
		line = strings.ReplaceAll(strings.ReplaceAll(line, url.PathEscape(value), name), value, name)
	}
	return line
}

// name remembers what stands for an id from now on.
func (s *storybook) name(answer map[string]any, key, name string) string {
	s.t.Helper()
	value, _ := answer[key].(string)
	if value == "" {
		s.t.Fatalf("%s: no %s in %v; so far:\n%s", name, key, answer, strings.Join(s.lines, "\n"))
	}
	s.names[value] = "<" + name + ">"
	return value
}

func (s *storybook) create(who *konsiltest.Session, name string, request map[string]any) string {
	s.t.Helper()
	room := s.name(s.try(who, "POST", "createRoom", request), "room_id", name)
	s.rooms = append(s.rooms, room)
	return room
}

// initial is a room's first state for one type.
func initial(typ string, content map[string]any) []any {
	return []any{map[string]any{"type": typ, "state_key": "", "content": content}}
}

// in is a room's part of the client API.
func in(room string) string { return "rooms/" + url.PathEscape(room) }

// settle waits until the other server has got all that anna's had for it: what is sent to a server keeps its order. Without it an invitation's event
// may arrive after the join that rests on it, and is then shown to nobody.
func (s *storybook) settle() {
	s.t.Helper()
	s.txn++
	eid := s.anna.Do("PUT", fmt.Sprintf("%s%s/send/m.room.message/t%d", client, in(s.hall), s.txn), map[string]any{"msgtype": "m.text", "body": "-"})["event_id"].(string)
	s.sees(s.berta, s.hall, eid)
}

// enter joins by way of the other server and waits until those already there see it.
func (s *storybook) enter(who *konsiltest.Session, room string, others ...*konsiltest.Session) {
	s.t.Helper()
	s.settle()
	s.try(who, "POST", "join/"+url.PathEscape(room)+"?server_name=praxis.test", map[string]any{})
	for _, o := range others {
		s.membership(room, who.User, "join", o)
	}
}

// act does something to somebody in a room: invite, kick, ban, unban.
func (s *storybook) act(who *konsiltest.Session, what, room string, whom *konsiltest.Session) {
	s.t.Helper()
	s.try(who, "POST", in(room)+"/"+what, map[string]any{"user_id": whom.User, "reason": "darum"})
}

func (s *storybook) send(who *konsiltest.Session, room, typ string, content map[string]any) map[string]any {
	s.t.Helper()
	s.txn++
	return s.try(who, "PUT", fmt.Sprintf("rooms/%s/send/%s/t%d", url.PathEscape(room), typ, s.txn), content)
}

// say sends a text and waits until the others see it.
func (s *storybook) say(who *konsiltest.Session, room, text string, others ...*konsiltest.Session) string {
	s.t.Helper()
	return s.tells(who, room, text, "m.room.message", map[string]any{"msgtype": "m.text", "body": text}, others...)
}

// tells sends any event, gives it a name and waits until the others see it.
func (s *storybook) tells(who *konsiltest.Session, room, name, typ string, content map[string]any, others ...*konsiltest.Session) string {
	s.t.Helper()
	eid := s.name(s.send(who, room, typ, content), "event_id", name)
	for _, o := range others {
		s.sees(o, room, eid)
	}
	return eid
}

// set sends a state event and waits until the others have it.
func (s *storybook) set(who *konsiltest.Session, room, typ string, content map[string]any, others ...*konsiltest.Session) {
	s.t.Helper()
	answer := s.try(who, "PUT", "rooms/"+url.PathEscape(room)+"/state/"+typ+"/", content)
	if eid, ok := answer["event_id"].(string); ok {
		s.names[eid] = "<" + typ + ">"
		for _, o := range others {
			s.sees(o, room, eid)
		}
	}
}

func (s *storybook) sees(who *konsiltest.Session, room, eid string) {
	s.t.Helper()
	s.until(who, "event "+eid, func() bool {
		_, page := who.Try("GET", client+in(room)+"/messages?dir=b&limit=10", nil)
		chunk, _ := page["chunk"].([]any)
		return slices.ContainsFunc(chunk, func(e any) bool { return konsiltest.At(e, "event_id") == eid })
	})
}

// until asks again and again; between the attempts it waits for the next change by a sync.
func (s *storybook) until(who *konsiltest.Session, what string, holds func() bool) {
	s.t.Helper()
	since := ""
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if holds() {
			return
		}
		since = who.Sync(since, time.Second)["next_batch"].(string)
	}
	s.t.Fatalf("%s never saw %s; so far:\n%s", who.User, what, strings.Join(s.lines, "\n"))
}

func (s *storybook) membership(room, of, is string, seenBy *konsiltest.Session) {
	s.t.Helper()
	s.until(seenBy, of+" "+is, func() bool {
		_, answer := seenBy.Try("GET", client+"rooms/"+url.PathEscape(room)+"/state/m.room.member/"+url.PathEscape(of), nil)
		return answer["membership"] == is
	})
}

// in a section of somebody's whole sync, the room is or is no longer there.
func (s *storybook) listed(who *konsiltest.Session, section, room string, there bool) {
	s.t.Helper()
	s.until(who, fmt.Sprintf("%s in %s: %v", room, section, there), func() bool {
		return (konsiltest.At(who.Sync("", 0), "rooms", section, room) != nil) == there
	})
	s.note("%s has %s in %s: %v", who.User, room, section, there)
}

// views writes down what everybody sees of every room once both servers have the same.
func (s *storybook) views() {
	for i, room := range s.rooms {
		_, members := s.anna.Try("GET", client+in(room)+"/joined_members", nil)
		if konsiltest.At(members, "joined", s.anna.User) != nil && konsiltest.At(members, "joined", s.berta.User) != nil {
			s.say(s.anna, room, fmt.Sprintf("Ende %d", i), s.berta)
			s.say(s.berta, room, fmt.Sprintf("auch Ende %d", i), s.anna)
		}
		for _, who := range []*konsiltest.Session{s.anna, s.berta, s.carl} {
			s.look(who, room)
		}
	}
}

// look writes down what somebody sees of a room: members, state, and all events that may be read, the latest first.
func (s *storybook) look(who *konsiltest.Session, room string) {
	s.t.Helper()
	s.try(who, "GET", in(room)+"/joined_members", nil)
	status, text := who.Raw("GET", client+in(room)+"/state", "", nil)
	var state []map[string]any
	if status == 200 {
		if err := json.Unmarshal(text, &state); err != nil {
			s.t.Fatal(err)
		}
	}
	entries := make([]string, 0, len(state))
	for _, e := range state {
		entries = append(entries, s.named(fmt.Sprintf("%v %q by %v: %s", e["type"], e["state_key"], e["sender"], s.sorted(e["content"]))))
	}
	slices.Sort(entries)
	s.note("%s sees the state of %s: %d", who.User, room, status)
	for _, e := range entries {
		s.note("  %s", e)
	}
	for from := ""; ; {
		status, page := who.Try("GET", client+in(room)+"/messages?dir=b&limit=100"+from, nil)
		s.note("%s reads %s: %d", who.User, room, status)
		chunk, _ := page["chunk"].([]any)
		for _, e := range chunk {
			s.note("  %v %v by %v, redacted %v: %s", konsiltest.At(e, "type"), konsiltest.At(e, "state_key"), konsiltest.At(e, "sender"),
				konsiltest.At(e, "unsigned", "redacted_because") != nil, s.sorted(konsiltest.At(e, "content")))
		}
		end, more := page["end"].(string)
		if !more || len(chunk) == 0 {
			return
		}
		from = "&from=" + url.QueryEscape(end)
	}
}

// sorted is a value's JSON with its keys in the order of their names.
func (s *storybook) sorted(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		s.t.Fatal(err)
	}
	text := strings.NewReplacer("\\u003c", "<", "\\u003e", ">")
	var named any
	if err := json.Unmarshal([]byte(s.named(string(raw))), &named); err != nil {
		s.t.Fatal(err)
	}
	raw, err = json.Marshal(named)
	if err != nil {
		s.t.Fatal(err)
	}
	return text.Replace(string(raw))
}
