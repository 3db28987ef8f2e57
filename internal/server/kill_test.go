// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/konsiltest"
)

const (
	killRounds  = 3
	killSenders = 6
	// killEach is how many acknowledgements come between two kills.
	killEach   = 60
	killWithin = 4 * time.Minute // ends a test that hangs
)

// epoch tells senders that the server is back.
type epoch struct {
	mu   sync.Mutex
	next chan struct{}
}

func (e *epoch) wait() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.next == nil {
		e.next = make(chan struct{})
	}
	return e.next
}

func (e *epoch) begin() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.next != nil {
		close(e.next)
	}
	e.next = nil
}

// sent is what a stream of sends got acknowledged: text → event id. Each text goes with one transaction id.
type sent struct {
	mu   sync.Mutex
	acks map[string]string
}

// put sends one text under its transaction id; an error means that nobody knows whether it arrived.
func put(ctx context.Context, base string, who *konsiltest.Session, room, text string) (status int, eventID string, err error) {
	body, err := json.Marshal(map[string]string{"msgtype": "m.text", "body": text})
	if err != nil {
		return 0, "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut,
		fmt.Sprintf("%s/_matrix/client/v3/rooms/%s/send/m.room.message/%s", base, url.PathEscape(room), url.PathEscape(text)), bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Authorization", "Bearer "+who.Token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	var answer struct {
		EventID string `json:"event_id"`
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return 0, "", err
	}
	return res.StatusCode, answer.EventID, nil
}

// stream lets several senders of one account send one text after another until the given number of acknowledgements, repeating under the same
// transaction id what got no answer. kill is called after every killEach acknowledgements; the server must run again when it returns.
func stream(t *testing.T, ctx context.Context, cell *konsiltest.Cell, who *konsiltest.Session, rooms []string, kill func()) *sent {
	t.Helper()
	var (
		s       = &sent{acks: map[string]string{}}
		back    epoch
		enough  = make(chan struct{})
		acks    = make(chan struct{})
		senders sync.WaitGroup
	)
	for n := range killSenders {
		senders.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-enough:
					return
				default:
				}
				text := fmt.Sprintf("%d-%05d", n, i)
				for {
					restarted := back.wait()
					status, eventID, err := put(ctx, cell.URL, who, rooms[n%len(rooms)], text)
					if err == nil && status == http.StatusOK {
						s.mu.Lock()
						s.acks[text] = eventID
						s.mu.Unlock()
						break
					}
					if err == nil {
						t.Errorf("send %s: %d", text, status)
						return
					}
					select {
					case <-restarted:
					case <-ctx.Done():
						t.Errorf("send %s: %v", text, err)
						return
					}
				}
				select {
				case acks <- struct{}{}:
				case <-enough:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	for round := range killRounds + 1 {
		for range killEach {
			select {
			case <-acks:
			case <-ctx.Done():
				t.Fatal("too few acknowledgements")
			}
		}
		if round < killRounds {
			kill()
			back.begin()
		}
	}
	close(enough)
	senders.Wait()
	return s
}

// timeline reads all texts of a room, oldest first: text and event id.
func timeline(t *testing.T, who *konsiltest.Session, room string) (texts, ids []string) {
	t.Helper()
	from := ""
	for {
		answer := who.Do("GET", "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/messages?dir=b&limit=100&from="+url.QueryEscape(from), nil)
		chunk, _ := answer["chunk"].([]any)
		for _, e := range chunk {
			if text, ok := konsiltest.At(e, "content", "body").(string); ok && konsiltest.At(e, "type") == "m.room.message" {
				texts = append(texts, text)
				ids = append(ids, konsiltest.At(e, "event_id").(string))
			}
		}
		next, _ := answer["end"].(string)
		if next == "" || len(chunk) == 0 {
			break
		}
		from = next
	}
	slices.Reverse(texts)
	slices.Reverse(ids)
	return texts, ids
}

// account compares what is in the rooms with what was acknowledged: everything once, under the acknowledged id, each sender's texts in their order.
func (s *sent) account(t *testing.T, who *konsiltest.Session, rooms []string) {
	t.Helper()
	found := map[string]string{}
	for _, room := range rooms {
		texts, ids := timeline(t, who, room)
		last := map[string]string{}
		for i, text := range texts {
			sender, _, _ := strings.Cut(text, "-")
			if text <= last[sender] {
				t.Errorf("%s sees %s after %s", who.User, text, last[sender])
			}
			last[sender] = text
			if found[text] != "" {
				t.Errorf("%s sees %s twice: %s and %s", who.User, text, found[text], ids[i])
			}
			found[text] = ids[i]
		}
	}
	for text, eventID := range s.acks {
		if found[text] != eventID {
			t.Errorf("%s sees %s as %q, acknowledged was %s", who.User, text, found[text], eventID)
		}
	}
	if len(found) != len(s.acks) {
		t.Errorf("%s sees %d texts, %d were acknowledged", who.User, len(found), len(s.acks))
	}
}

// TestKill ends the real program with kill -9 in the middle of a stream of sends, again and again.
func TestKill(t *testing.T) {
	t.Parallel()
	program := konsiltest.Program(t)
	konsiltest.Each(t, 1, func(t *testing.T, databases []string) {
		ctx, cancel := context.WithTimeout(t.Context(), killWithin)
		defer cancel()
		cell := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"hs1"}, Database: databases[0], Program: program}).Cell(0)
		alice, bob := cell.SignIn(t, "@alice:hs1"), cell.SignIn(t, "@bob:hs1")
		rooms := []string{}
		for range 2 {
			room := alice.CreateRoom(map[string]any{"preset": "private_chat", "invite": []string{bob.User}})
			bob.Join(room)
			rooms = append(rooms, room)
		}
		since := bob.Sync("", 0)["next_batch"].(string)
		s := stream(t, ctx, cell, alice, rooms, func() { cell.Kill(); cell.Start() })
		s.account(t, alice, rooms)
		s.account(t, bob, rooms)

		// A retry long after its answer was given gets the same answer and does nothing.
		for _, text := range slices.Sorted(maps.Keys(s.acks))[:3] {
			sender := int(text[0] - '0')
			if status, eventID, err := put(ctx, cell.URL, alice, rooms[sender%len(rooms)], text); err != nil || status != http.StatusOK || eventID != s.acks[text] {
				t.Errorf("the retry of %s got %d %s %v, want %s", text, status, eventID, err, s.acks[text])
			}
		}
		s.account(t, alice, rooms)

		// A sync token from before the kills goes on.
		newest := alice.Send(rooms[0], "9-00000")
		bob.Until(since, "what came after the kills", func(sync map[string]any) bool { return konsiltest.HasEvent(sync, rooms[0], newest) })
	})
}

// TestKillFederation does it with either side of a conversation between two servers: the peer gets everything once, whoever dies.
func TestKillFederation(t *testing.T) {
	t.Parallel()
	program := konsiltest.Program(t)
	for name, victim := range map[string]int{"sender dies": 0, "receiver dies": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			konsiltest.Each(t, 2, func(t *testing.T, databases []string) {
				ctx, cancel := context.WithTimeout(t.Context(), killWithin)
				defer cancel()
				n := konsiltest.New(t,
					konsiltest.Spec{Tenants: []string{"praxis.test"}, Database: databases[0], Program: program},
					konsiltest.Spec{Tenants: []string{"klinik.test"}, Database: databases[1], Program: program})
				anna, berta := n.Cell(0).SignIn(t, "@anna:praxis.test"), n.Cell(1).SignIn(t, "@berta:klinik.test")
				room := anna.CreateRoom(map[string]any{"preset": "private_chat", "invite": []string{berta.User}})
				since := berta.Until("", "the invitation", func(sync map[string]any) bool { return konsiltest.Invited(sync, room) })
				berta.Join(room, "praxis.test")
				dying := n.Cell(victim)
				s := stream(t, ctx, n.Cell(0), anna, []string{room}, func() { dying.Kill(); dying.Start() })
				s.account(t, anna, []string{room})

				// Everything arrives. A later message carries what an earlier transaction lost.
				last := anna.Send(room, "9-00000")
				s.acks["9-00000"] = last
				berta.Until(since, "everything", func(map[string]any) bool {
					_, ids := timeline(t, berta, room)
					return len(ids) >= len(s.acks)
				})
				s.account(t, berta, []string{room})
			})
		})
	}
}
