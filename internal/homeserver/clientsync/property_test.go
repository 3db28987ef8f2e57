// SPDX-License-Identifier: Apache-2.0

package clientsync_test

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"sync"
	"testing"

	. "github.com/konsil-health/konsil/internal/homeserver/clientsync/clientsynctest"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// client is a device that keeps what it has seen, as a careful client does: timelines, gaps filled by paging, state.
type client struct {
	*Person
	random *rand.Rand
	after  bool
	// seen counts how often each message came, state is the event of each key, by room.
	seen  map[string]map[string]int
	state map[string]map[string]string
	lost  int
}

func newClient(p *Person, seed uint64, after bool) *client {
	return &client{Person: p, random: rand.New(rand.NewPCG(seed, 7)), after: after,
		seen: map[string]map[string]int{}, state: map[string]map[string]string{}}
}

// step syncs once. Every fifth answer is lost on the way and comes again.
func (c *client) step(timeout int) (quiet bool) {
	before := c.Since
	query := fmt.Sprintf("timeout=%d&use_state_after=%v&%s", timeout, c.after, filterParam(fmt.Sprintf(`{"room":{"timeline":{"limit":%d}}}`, 1+c.random.IntN(12))))
	a := c.Sync(query)
	if c.random.IntN(5) == 0 {
		c.Since, c.lost = before, c.lost+1
		return false
	}
	joined, _ := a.At("rooms", "join").(M)
	for room := range joined {
		c.take(a, room, before)
	}
	return len(joined) == 0
}

// take adds a room's section.
func (c *client) take(a *Answer, room, before string) {
	if c.seen[room] == nil {
		c.seen[room], c.state[room] = map[string]int{}, map[string]string{}
	}
	if a.At("rooms", "join", room, "timeline", "limited") == true {
		c.fill(a.At("rooms", "join", room, "timeline", "prev_batch").(string), room, before)
	}
	events := a.Timeline(room)
	for _, e := range events {
		c.count(room, e)
	}
	apply := append(a.State(room), events...)
	if c.after {
		apply = a.Events("rooms", "join", room, "state_after", "events")
	}
	for _, e := range apply {
		if key, ok := e["state_key"]; ok {
			c.state[room][fmt.Sprint(e["type"], "|", key)] = e["event_id"].(string)
		}
	}
}

func (c *client) count(room string, e M) {
	if e["type"] == "m.room.message" {
		c.seen[room][e["event_id"].(string)]++
	}
}

// fill pages back through a gap to where the client was.
func (c *client) fill(from, room, to string) {
	for from != "" {
		path := Room(room) + "/messages?dir=b&limit=7&from=" + url.QueryEscape(from)
		if to != "" {
			path += "&to=" + url.QueryEscape(to)
		}
		page := M{}
		c.Do("GET", path, nil).OK(&page)
		for _, e := range page["chunk"].([]any) {
			c.count(room, e.(M))
		}
		from, _ = page["end"].(string)
	}
}

// TestEveryEventReachesEveryClientOnce: people write into several rooms at once while devices sync with small limits, lose answers and begin
// anew. In the end every device has seen every message exactly once and has the room's state.
func TestEveryEventReachesEveryClientOnce(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		const people, rooms, messages = 3, 2, 25
		var all []*Person
		for i := range people {
			all = append(all, g.Person(fmt.Sprintf("p%d", i)))
		}
		var ids []string
		var others []id.User // invited by the creation itself, which in this preset lets them change the state
		for _, p := range all[1:] {
			others = append(others, p.ID)
		}
		for i := range rooms {
			room := all[0].Create(M{"preset": "trusted_private_chat", "name": fmt.Sprint("room ", i), "room_version": []string{"10", "12"}[i%2], "invite": others})
			ids = append(ids, room)
			for _, p := range all[1:] {
				p.Join(room)
			}
		}
		var senders, readers sync.WaitGroup
		sent := make([]map[string]string, people)
		for i, p := range all {
			senders.Go(func() {
				random := rand.New(rand.NewPCG(uint64(i), 1))
				sent[i] = map[string]string{}
				writer := &Person{User: p.User}
				for n := range messages {
					room := ids[random.IntN(rooms)]
					sent[i][writer.Say(room, fmt.Sprint(n))] = room
					if n%6 == i {
						writer.SetState(room, "m.room.topic", M{"topic": fmt.Sprint(i, " ", n)})
					}
				}
			})
		}
		ended := make(chan struct{})
		var clients []*client
		for i, p := range all {
			for d := range 2 {
				c := newClient(p.On(device(fmt.Sprint("READER", d))), uint64(10*i+d), d == 1)
				clients = append(clients, c)
				readers.Go(func() {
					for {
						select {
						case <-ended: // what is asked for from now on has everything before it
							for !c.step(0) {
							}
							return
						default:
							c.step(20)
						}
					}
				})
			}
		}
		senders.Wait()
		close(ended)
		readers.Wait()
		// One more device comes when all is over.
		late := newClient(all[0].On("LATE"), 99, false)
		for !late.step(0) {
		}
		for i, c := range append(clients, late) {
			for j := range sent {
				for eid, room := range sent[j] {
					if n := c.seen[room][eid]; n != 1 {
						t.Errorf("client %d (%d answers lost) saw a message of %d %d times", i, c.lost, j, n)
					}
				}
			}
			for _, room := range ids {
				var state []M
				c.Do("GET", Room(room)+"/state", nil).OK(&state)
				for _, e := range state {
					if key := fmt.Sprint(e["type"], "|", e["state_key"]); c.state[room][key] != e["event_id"] {
						t.Errorf("client %d has %s for %s, the room %s", i, c.state[room][key], key, e["event_id"])
					}
				}
			}
		}
	})
}
