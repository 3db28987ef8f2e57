// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/konsil-health/konsil/internal/konsiltest"
)

// TestNodesConverge: three whole nodes talk over TLS while requests between them are dropped, lose their answers or arrive twice, and one node is cut off
// for a while. In the end all have the same state and all messages, each once.
func TestNodesConverge(t *testing.T) {
	t.Parallel()
	names := []string{"eins.test", "zwei.test", "drei.test"}
	specs := make([]konsiltest.Spec, len(names))
	for i, name := range names {
		specs[i] = konsiltest.Spec{Tenants: []string{name}}
	}
	n := konsiltest.New(t, specs...)
	people := make([]*konsiltest.Session, len(names))
	for i, name := range names {
		people[i] = n.Cell(i).SignIn(t, "@u:"+name)
	}
	room := people[0].CreateRoom(map[string]any{"preset": "public_chat", "power_level_content_override": map[string]any{"state_default": 0}})
	people[1].Join(room, names[0])
	people[2].Join(room, names[0])

	var mu sync.Mutex
	dice := rand.New(rand.NewPCG(1, 2))
	cut := ""
	n.Fates(func(p konsiltest.Passage) konsiltest.Fate {
		mu.Lock()
		defer mu.Unlock()
		if cut != "" && (p.From == cut || p.To == cut) {
			return konsiltest.Drop
		}
		return []konsiltest.Fate{konsiltest.Drop, konsiltest.Lose, konsiltest.Twice, konsiltest.Pass, konsiltest.Pass, konsiltest.Pass}[dice.IntN(6)]
	})
	var sent []string
	for round := range 12 {
		mu.Lock()
		switch {
		case round >= 4 && round < 7:
			cut = names[1]
		case round >= 7 && round < 10:
			cut = names[2]
		default:
			cut = ""
		}
		mu.Unlock()
		for i, who := range people {
			sent = append(sent, who.Send(room, fmt.Sprintf("%d von %d", round, i)))
			who.Do("PUT", client+in(room)+"/state/m.room.topic/", map[string]any{"topic": fmt.Sprintf("%d von %d", round, i)})
		}
	}
	n.Fates(nil)
	lost := 0
	for _, p := range n.Passages() {
		if p.Status == 0 {
			lost++
		}
	}
	if lost < 10 {
		t.Errorf("only %d requests or answers were lost", lost)
	}
	for _, who := range people {
		sent = append(sent, who.Send(room, "zuletzt"))
	}
	slices.Sort(sent)
	for i, who := range people {
		who.Until("", "everything", func(map[string]any) bool { return strings.Join(heard(t, who, room), " ") == strings.Join(sent, " ") })
		who.Until("", "the others' state", func(map[string]any) bool { return stateOf(t, who, room) == stateOf(t, people[(i+1)%len(people)], room) })
	}
}

// heard are the ids of the texts that somebody reads in a room, in order, one for each time that it is there.
func heard(t *testing.T, who *konsiltest.Session, room string) []string {
	t.Helper()
	var ids []string
	chunk, _ := who.Do("GET", client+in(room)+"/messages?dir=b&limit=500", nil)["chunk"].([]any)
	for _, e := range chunk {
		if konsiltest.At(e, "type") == "m.room.message" {
			ids = append(ids, konsiltest.At(e, "event_id").(string))
		}
	}
	slices.Sort(ids)
	return ids
}

// stateOf is a room's state as the ids of its events.
func stateOf(t *testing.T, who *konsiltest.Session, room string) string {
	t.Helper()
	_, text := who.Raw("GET", client+in(room)+"/state", "", nil)
	var state []map[string]any
	if err := json.Unmarshal(text, &state); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, e := range state {
		ids = append(ids, fmt.Sprint(e["event_id"]))
	}
	slices.Sort(ids)
	return strings.Join(ids, " ")
}
