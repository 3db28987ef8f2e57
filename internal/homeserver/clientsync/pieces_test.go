// SPDX-License-Identifier: Apache-2.0

package clientsync_test

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"testing"

	. "github.com/konsil-health/konsil/internal/homeserver/clientsync/clientsynctest"
)

// held is a room as a device has pieced it together.
type held struct {
	// messages says of each whether it still has content; state is the event of each key; read is the event that each user has read up to.
	messages map[string]bool
	state    map[string]string
	read     map[string]string
}

func newHeld() *held {
	return &held{messages: map[string]bool{}, state: map[string]string{}, read: map[string]string{}}
}

// piecer is a device that keeps its rooms from one kind of sync, with windows and limits that change.
type piecer struct {
	*Person
	random *rand.Rand
	kind   string // classic, after or sliding
	rooms  map[string]*held
	lost   int
}

// page pages back through a room and notes messages, down to an earlier token or to the room's beginning.
func (d *piecer) page(h *held, room, from, to string) {
	for from != "" {
		path := Room(room) + "/messages?dir=b&limit=20&from=" + url.QueryEscape(from)
		if to != "" {
			path += "&to=" + url.QueryEscape(to)
		}
		page := M{}
		d.Do("GET", path, nil).OK(&page)
		chunk, _ := page["chunk"].([]any)
		for i := len(chunk) - 1; i >= 0; i-- {
			h.note(chunk[i].(M))
		}
		from, _ = page["end"].(string)
	}
}

// note takes a timeline event: a message, or what takes its content.
func (h *held) note(e M) {
	eid, _ := e["event_id"].(string)
	switch e["type"] {
	case "m.room.message":
		content, _ := e["content"].(M)
		if was, known := h.messages[eid]; !known || was {
			h.messages[eid] = len(content) > 0
		}
	case "m.room.redaction":
		if target, ok := e["redacts"].(string); ok {
			if _, known := h.messages[target]; known {
				h.messages[target] = false
			}
		}
	}
}

func (h *held) apply(events []M) {
	for _, e := range events {
		if key, ok := e["state_key"]; ok {
			h.state[fmt.Sprint(e["type"], "|", key)] = e["event_id"].(string)
		}
	}
}

func (h *held) receipts(content any) {
	marks, _ := content.(M)
	for eid, kinds := range marks {
		users, _ := At(kinds, "m.read").(M)
		for u := range users {
			h.read[u] = eid
		}
	}
}

// step asks once; every sixth answer is lost.
func (d *piecer) step() {
	if d.kind == "sliding" {
		d.slide(d.random.IntN(4), 1+d.random.IntN(4))
		return
	}
	d.sync(1 + d.random.IntN(6))
}

func (d *piecer) isLost() bool {
	if d.random.IntN(6) != 0 {
		return false
	}
	d.lost++
	return true
}

func (d *piecer) sync(limit int) {
	before := d.Since
	a := d.Sync(fmt.Sprintf("use_state_after=%v&%s", d.kind == "after", filterParam(fmt.Sprintf(`{"room":{"timeline":{"limit":%d}}}`, limit))))
	if d.isLost() {
		d.Since = before
		return
	}
	left, _ := a.At("rooms", "leave").(M)
	for room := range left {
		delete(d.rooms, room)
	}
	joined, _ := a.At("rooms", "join").(M)
	for room := range joined {
		h, known := d.rooms[room]
		if !known {
			h = newHeld()
			d.rooms[room] = h
		}
		to := before
		if !known {
			to = ""
		}
		if a.At("rooms", "join", room, "timeline", "limited") == true {
			d.page(h, room, a.At("rooms", "join", room, "timeline", "prev_batch").(string), to)
		}
		timeline := a.Timeline(room)
		for _, e := range timeline {
			h.note(e)
		}
		if d.kind == "after" {
			h.apply(a.Events("rooms", "join", room, "state_after", "events"))
		} else {
			h.apply(a.State(room))
			h.apply(timeline)
		}
		for _, e := range a.Ephemeral(room, "m.receipt") {
			h.receipts(e["content"])
		}
	}
}

func (d *piecer) slide(last, limit int) bool {
	before := d.Pos
	a := d.Slide(with(list(last, limit, []string{"*", "*"}), M{"extensions": M{"receipts": M{"enabled": true}}}))
	if d.isLost() {
		d.Pos = before
		return false
	}
	rooms, _ := a.At("rooms").(M)
	for room := range rooms {
		if a.At("rooms", room, "membership") != "join" {
			delete(d.rooms, room)
			continue
		}
		h := d.rooms[room]
		initial := a.At("rooms", room, "initial") == true
		if h == nil || initial {
			h = newHeld()
			d.rooms[room] = h
		}
		if a.At("rooms", room, "limited") == true {
			if from, ok := a.At("rooms", room, "prev_batch").(string); ok {
				// What lies between is not always after the last pos: the room may have been outside of the window for long.
				d.page(h, room, from, "")
			}
		}
		for _, e := range a.Events("rooms", room, "timeline") {
			h.note(e)
		}
		h.apply(a.Events("rooms", room, "required_state"))
	}
	receipts, _ := a.At("extensions", "receipts", "rooms").(M)
	for room, e := range receipts {
		if h := d.rooms[room]; h != nil {
			h.receipts(At(e, "content"))
		}
	}
	return len(rooms) == 0
}

// history is a random history of a few rooms, with what is true of them.
type history struct {
	random *rand.Rand
	people []*Person
	rooms  []string
	// said are the messages by room; read is who has read what.
	said map[string][]string
	in   map[string]map[*Person]bool
	read map[string]map[string]string
}

// act lets something happen.
func (h *history) act() {
	room := h.rooms[h.random.IntN(len(h.rooms))]
	who := h.people[h.random.IntN(len(h.people))]
	owner := h.people[0]
	switch n := h.random.IntN(20); {
	case !h.in[room][who]:
		if n < 12 {
			who.Join(room)
			h.in[room][who] = true
		}
	case n < 9:
		h.said[room] = append(h.said[room], who.Say(room, fmt.Sprint("message ", len(h.said[room]))))
	case n < 11:
		owner.SetState(room, "m.room.topic", M{"topic": fmt.Sprint(n, h.random.IntN(1000))})
	case n < 13 && len(h.said[room]) > 0:
		target := h.said[room][h.random.IntN(len(h.said[room]))]
		owner.Do("PUT", Room(room)+"/redact/"+url.PathEscape(target)+"/r"+fmt.Sprint(h.random.IntN(1<<30)), M{}).OK(nil)
	case n < 15 && len(h.said[room]) > 0:
		last := h.said[room][len(h.said[room])-1]
		who.Do("POST", Room(room)+"/receipt/m.read/"+url.PathEscape(last), M{}).OK(nil)
		h.read[room][string(who.ID)] = last
	case n < 17 && who != owner:
		who.Leave(room)
		h.in[room][who] = false
	case n < 18 && who != owner:
		owner.Do("POST", Room(room)+"/kick", M{"user_id": who.ID}).OK(nil)
		h.in[room][who] = false
	}
}

// TestWhatDevicesPieceTogether: random histories of joins, leaves, kicks, messages, redactions and receipts, while devices poll at random by both
// kinds of sync, lose answers and meet restarts of the server. In the end each has the rooms of its user as they are.
func TestWhatDevicesPieceTogether(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			Each(t, func(t *testing.T, g *Rig) { pieceTogether(t, g, seed) })
		})
	}
}

func pieceTogether(t *testing.T, g *Rig, seed uint64) {
	h := &history{random: rand.New(rand.NewPCG(seed, 3)), said: map[string][]string{}, in: map[string]map[*Person]bool{}, read: map[string]map[string]string{}}
	for i := range 3 {
		h.people = append(h.people, g.Person(fmt.Sprint("p", i)))
	}
	for i := range 4 {
		room := h.people[0].Create(M{"preset": "public_chat", "name": fmt.Sprint("room ", i)})
		h.rooms = append(h.rooms, room)
		h.in[room], h.read[room] = map[*Person]bool{h.people[0]: true}, map[string]string{}
	}
	var devices []*piecer
	for i, p := range h.people {
		for j, kind := range []string{"classic", "after", "sliding", "sliding"} {
			devices = append(devices, &piecer{Person: p.On(device(fmt.Sprint("D", j))), kind: kind, rooms: map[string]*held{},
				random: rand.New(rand.NewPCG(seed, uint64(10+4*i+j)))})
		}
	}
	for range 150 {
		h.act()
		if h.random.IntN(2) == 0 {
			devices[h.random.IntN(len(devices))].step()
		}
		if h.random.IntN(20) == 0 {
			g.Sync.Forget()
		}
	}
	for n, d := range devices {
		for range 12 { // more than enough to get an answer through
			if d.kind == "sliding" {
				d.slide(20, 3)
			} else {
				d.sync(3)
			}
		}
		h.compare(t, n, d)
	}
}

// compare compares what a device has with the rooms.
func (h *history) compare(t *testing.T, n int, d *piecer) {
	t.Helper()
	who := h.people[n/4]
	for _, room := range h.rooms {
		got, has := d.rooms[room]
		if has != h.in[room][who] {
			t.Errorf("device %d (%s) has room %s: %v, its user is in it: %v", n, d.kind, room, has, h.in[room][who])
			continue
		}
		if !has {
			continue
		}
		truth := newHeld()
		all := &piecer{Person: d.Person}
		start := M{}
		d.Do("GET", Room(room)+"/messages?dir=b&limit=100", nil).OK(&start)
		chunk, _ := start["chunk"].([]any)
		for i := len(chunk) - 1; i >= 0; i-- {
			truth.note(chunk[i].(M))
		}
		if end, ok := start["end"].(string); ok {
			all.page(truth, room, end, "")
		}
		for eid, content := range truth.messages {
			if was, there := got.messages[eid]; !there || was != content {
				t.Errorf("device %d (%s): message %s is there %v with content %v, truly %v", n, d.kind, eid, there, was, content)
			}
		}
		for eid := range got.messages {
			if _, there := truth.messages[eid]; !there {
				t.Errorf("device %d (%s) has a message that its user may not see", n, d.kind)
			}
		}
		var state []M
		d.Do("GET", Room(room)+"/state", nil).OK(&state)
		for _, e := range state {
			if key := fmt.Sprint(e["type"], "|", e["state_key"]); got.state[key] != e["event_id"] {
				t.Errorf("device %d (%s) has %q for %s, the room %s", n, d.kind, got.state[key], key, e["event_id"])
			}
		}
		for u, eid := range h.read[room] {
			if d.kind != "sliding" && got.read[u] != eid {
				t.Errorf("device %d (%s): %s has read %q, truly %s", n, d.kind, u, got.read[u], eid)
			}
		}
	}
}
