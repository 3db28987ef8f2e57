// SPDX-License-Identifier: Apache-2.0

package clientsync_test

import (
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"testing"

	. "github.com/konsil-health/konsil/internal/homeserver/clientsync/clientsynctest"
)

// list is a request with one list of the rooms from 0 to last.
func list(last, limit int, required ...[]string) M {
	if required == nil {
		required = [][]string{}
	}
	return M{"lists": M{"all": M{"ranges": [][]int{{0, last}}, "timeline_limit": limit, "required_state": required}}}
}

// with adds fields to a request.
func with(request M, fields M) M {
	out := M{}
	for k, v := range request {
		out[k] = v
	}
	for k, v := range fields {
		out[k] = v
	}
	return out
}

func roomsOf(a *Answer) []string {
	rooms, _ := a.At("rooms").(M)
	var out []string
	for r := range rooms {
		out = append(out, r)
	}
	slices.Sort(out)
	return out
}

func TestSlidingList(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		named := anna.Create(M{"preset": "public_chat", "name": "Befunde"})
		plain := anna.Create(M{"preset": "public_chat"})
		ben.Join(plain)
		ben.Do("PUT", Room(plain)+"/state/"+member+"/"+url.PathEscape(string(ben.ID)), M{"membership": "join", "displayname": "Ben", "avatar_url": "mxc://a.test/b"}).OK(nil)
		first := ben.Say(plain, "eins")
		second := ben.Say(plain, "zwei")
		a := anna.Slide(list(0, 2, []string{"m.room.create", ""}, []string{"m.room.member", "$LAZY"}, []string{"m.room.member", "$ME"}))
		if got := roomsOf(a); !reflect.DeepEqual(got, []string{plain}) || a.At("lists", "all", "count") != 2.0 {
			t.Fatalf("rooms %v, lists %v", got, a.At("lists"))
		}
		r := a.At("rooms", plain)
		if got := IDs(a.Events("rooms", plain, "timeline")); !reflect.DeepEqual(got, []string{first, second}) || At(r, "limited") != true || At(r, "prev_batch") == nil {
			t.Errorf("timeline %v", r)
		}
		if At(r, "initial") != true || At(r, "name") != nil || At(r, "joined_count") != 2.0 || At(r, "invited_count") != 0.0 || At(r, "num_live") != 0.0 {
			t.Errorf("room %v", r)
		}
		if At(r, "heroes", 0, "user_id") != string(ben.ID) || At(r, "heroes", 0, "displayname") != "Ben" || At(r, "heroes", 0, "avatar_url") != "mxc://a.test/b" {
			t.Errorf("heroes %v", At(r, "heroes"))
		}
		if At(r, "notification_count") != 2.0 || At(r, "membership") != "join" || At(r, "bump_stamp") == nil {
			t.Errorf("room %v", r)
		}
		state := a.Events("rooms", plain, "required_state")
		if len(state) != 3 || Find(state, "m.room.create", "") == nil || Find(state, member, string(anna.ID)) == nil || Find(state, member, string(ben.ID)) == nil {
			t.Errorf("required state %v", state)
		}
		// A wider range brings the rest alone.
		a = anna.Slide(list(9, 2, []string{"m.room.create", ""}, []string{"m.room.member", "$LAZY"}, []string{"m.room.member", "$ME"}))
		if got := roomsOf(a); !reflect.DeepEqual(got, []string{named}) || a.At("rooms", named, "name") != "Befunde" || a.At("rooms", named, "heroes") != nil {
			t.Errorf("the wider range: %v", a.At("rooms"))
		}
		wide := list(9, 2, []string{"m.room.create", ""}, []string{"m.room.member", "$LAZY"}, []string{"m.room.member", "$ME"})
		if a = anna.Slide(wide); len(roomsOf(a)) != 0 {
			t.Errorf("a quiet answer: %v", a.At("rooms"))
		}
		// What happens comes alone, at once.
		done := make(chan *Answer, 1)
		go func() { done <- anna.Slide(with(wide, M{"timeout": 60000})) }()
		third := ben.Say(plain, "drei")
		a = <-done
		r = a.At("rooms", plain)
		if got := IDs(a.Events("rooms", plain, "timeline")); !reflect.DeepEqual(got, []string{third}) || At(r, "num_live") != 1.0 || At(r, "initial") != nil || At(r, "limited") != nil {
			t.Errorf("an event: %v", r)
		}
		if At(r, "joined_count") != nil || len(a.Events("rooms", plain, "required_state")) != 0 || At(r, "heroes") != nil {
			t.Errorf("more than the event: %v", r)
		}
		anna.SetState(named, "m.room.name", M{})
		if a = anna.Slide(wide); !reflect.DeepEqual(roomsOf(a), []string{named}) {
			t.Errorf("a name that goes: %v", a.At("rooms"))
		} else if name, there := a.At("rooms", named).(M)["name"]; !there || name != nil {
			t.Errorf("a name that goes: %v", a.At("rooms", named))
		}
	})
}

func TestSlidingPos(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		room := anna.Create(M{"preset": "public_chat"})
		ben.Join(room)
		q := list(9, 1)
		anna.Slide(q)
		first := anna.Pos
		said := ben.Say(room, "1")
		other := ben.Create(M{"preset": "public_chat"})
		anna.Join(other)
		lost := anna.Slide(q)
		anna.Pos = first
		g.Sync.Forget() // as after a restart
		again := anna.Slide(q)
		if !reflect.DeepEqual(roomsOf(lost), roomsOf(again)) || IDs(again.Events("rooms", room, "timeline"))[0] != said {
			t.Errorf("a lost answer %v, and again %v", lost.At("rooms"), again.At("rooms"))
		}
		third := anna.Create(M{})
		anna.Slide(q)
		anna.Create(M{})
		now := anna.Pos
		if a := anna.Slide(q); len(roomsOf(a)) != 1 || a.At("rooms", third) != nil {
			t.Errorf("after it: %v", a.At("rooms"))
		}
		unknown := func(who *Person, pos string, q M) {
			t.Helper()
			who.Do("POST", Sliding+"?pos="+url.QueryEscape(pos), q).Fails(400, "M_UNKNOWN_POS")
		}
		g.Sync.Forget()
		unknown(anna, first, q)
		unknown(anna, "nonsense", q)
		unknown(anna.On("OTHER"), now, q)
		unknown(ben, now, q)
		unknown(anna, now, with(q, M{"conn_id": "second"}))
		anna.Sync("")
		unknown(anna, anna.Since, q)
		anna.Do("POST", "/_matrix/client/v4/sync", with(q, M{"pos": now})).OK(nil)
		// A pos is a place to page from.
		page := M{}
		anna.Do("GET", Room(room)+"/messages?dir=b&limit=1&from="+url.QueryEscape(now), nil).OK(&page)
		if At(page, "chunk", 0, "event_id") != said {
			t.Errorf("paging from a pos: %v", page["chunk"])
		}
	})
}

// TestSlidingWindow: a room outside of the window keeps what happened in it until it is wanted again.
func TestSlidingWindow(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna := g.Person("anna")
		var rooms []string
		for i := range 4 {
			rooms = append(rooms, anna.Create(M{"name": fmt.Sprint("room ", i)}))
		}
		anna.Slide(list(9, 1, []string{"m.room.topic", ""}))
		small := list(0, 1, []string{"m.room.topic", ""})
		one := anna.Say(rooms[0], "1")
		topic := anna.SetState(rooms[0], "m.room.topic", M{"topic": "x"})
		anna.Say(rooms[3], "2")
		if a := anna.Slide(small); !reflect.DeepEqual(roomsOf(a), rooms[3:]) {
			t.Errorf("the small window: %v", a.At("rooms"))
		}
		if a := anna.Slide(small); len(roomsOf(a)) != 0 {
			t.Errorf("quiet: %v", a.At("rooms"))
		}
		g.Sync.Forget()
		two := anna.Say(rooms[0], "3")
		a := anna.Slide(list(0, 10, []string{"m.room.topic", ""}))
		r := a.At("rooms", rooms[0])
		if got := IDs(a.Events("rooms", rooms[0], "timeline")); len(got) < 3 || !reflect.DeepEqual(got[len(got)-3:], []string{one, topic, two}) || At(r, "num_live") != 1.0 || At(r, "initial") != nil {
			t.Errorf("back in the window: %v", r)
		}
		if s := a.Events("rooms", rooms[0], "required_state"); len(s) != 1 || s[0]["event_id"] != topic {
			t.Errorf("state %v", s)
		}
	})
}

func TestSlidingConfigGrows(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna := g.Person("anna")
		room := anna.Create(M{"name": "x", "topic": "y"})
		var said []string
		for i := range 5 {
			said = append(said, anna.Say(room, fmt.Sprint(i)))
		}
		q := list(9, 1, []string{"m.room.create", ""})
		anna.Slide(q)
		grown := with(q, M{"room_subscriptions": M{room: M{"timeline_limit": 4, "required_state": [][]string{{"m.room.topic", ""}}}, "!gibtesnicht:a.test": M{"timeline_limit": 4, "required_state": [][]string{}}}, "timeout": 60000})
		a := anna.Slide(grown)
		r := a.At("rooms", room)
		if got := IDs(a.Events("rooms", room, "timeline")); !reflect.DeepEqual(got, said[1:]) || At(r, "unstable_expanded_timeline") != true || At(r, "num_live") != 0.0 || At(r, "limited") != true {
			t.Errorf("expanded timeline %v", r)
		}
		if s := a.Events("rooms", room, "required_state"); len(s) != 1 || s[0]["type"] != "m.room.topic" {
			t.Errorf("expanded state %v", s)
		}
		grown["timeout"] = 0
		if a = anna.Slide(grown); len(roomsOf(a)) != 0 {
			t.Errorf("once more: %v", a.At("rooms"))
		}
		anna.Slide(q)
		last := anna.Say(room, "neu")
		if a = anna.Slide(grown); !reflect.DeepEqual(IDs(a.Events("rooms", room, "timeline")), []string{last}) {
			t.Errorf("what the client has comes again: %v", a.At("rooms", room, "timeline"))
		}
		// The stable form: objects, one range, all state with its exceptions.
		fresh := anna.On("NEW")
		body := M{}
		fresh.Do("POST", "/_matrix/client/v4/sync", M{"lists": M{"all": M{"range": []int{0, 9}, "timeline_limit": 1,
			"required_state": M{"include": []M{{}}, "exclude": []M{{"type": "m.room.create"}}, "lazy_members": true}}}}).OK(&body)
		state := (&Answer{Body: body}).Events("rooms", room, "required_state")
		if Find(state, "m.room.create", "") != nil || Find(state, "m.room.topic", "") == nil || Find(state, member, string(anna.ID)) == nil {
			t.Errorf("state by the stable form: %v", state)
		}
	})
}

func TestSlidingMembership(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		q := list(9, 10, []string{"m.room.create", ""}, []string{"m.room.member", "$ME"}, []string{"m.room.topic", ""})
		ben.Slide(q)
		room := anna.Create(M{"preset": "private_chat", "name": "Befunde"})
		anna.Invite(room, ben)
		b := ben.Slide(q)
		r := b.At("rooms", room)
		if At(r, "membership") != "invite" || At(r, "initial") != true || Find(b.Events("rooms", room, "invite_state"), "m.room.name", "") == nil || At(r, "timeline") != nil || At(r, "joined_count") != nil {
			t.Errorf("an invite: %v", r)
		}
		ben.Join(room)
		b = ben.Slide(q)
		r = b.At("rooms", room)
		if At(r, "membership") != "join" || At(r, "initial") != true || At(r, "name") != "Befunde" || len(b.Events("rooms", room, "required_state")) != 2 {
			t.Errorf("a join: %v", r)
		}
		anna.SetState(room, "m.room.topic", M{"topic": "vorher"})
		anna.Do("POST", Room(room)+"/kick", M{"user_id": ben.ID}).OK(nil)
		anna.SetState(room, "m.room.topic", M{"topic": "nachher"})
		b = ben.Slide(q)
		r = b.At("rooms", room)
		state := b.Events("rooms", room, "required_state")
		if At(r, "membership") != "leave" || At(Find(state, "m.room.topic", ""), "content", "topic") != "vorher" || At(Find(state, member, string(ben.ID)), "content", "membership") != "leave" {
			t.Errorf("a kick: %v", r)
		}
		if got := b.Events("rooms", room, "timeline"); len(got) != 2 || At(got[1], "content", "membership") != "leave" {
			t.Errorf("the timeline until the kick: %v", got)
		}
		anna.Say(room, "x")
		if b = ben.Slide(q); len(roomsOf(b)) != 0 {
			t.Errorf("after the kick: %v", b.At("rooms"))
		}
		// A new connection is told of the kick, but not of rooms that the user left by itself.
		own := ben.Create(M{})
		ben.Leave(own)
		c := ben.On("NEW").Slide(q)
		if got := roomsOf(c); !reflect.DeepEqual(got, []string{room}) || c.At("rooms", room, "initial") != true {
			t.Errorf("a new connection sees %v", c.At("rooms"))
		}
		// Whoever refuses an invite learns nothing of the room's state.
		secret := anna.Create(M{"preset": "private_chat"})
		anna.Invite(secret, ben)
		ben.Slide(q)
		anna.SetState(secret, "m.room.topic", M{"topic": "geheim"})
		ben.Leave(secret)
		b = ben.Slide(q)
		if s := b.Events("rooms", secret, "required_state"); b.At("rooms", secret, "membership") != "leave" || Find(s, "m.room.topic", "") != nil || len(b.Events("rooms", secret, "timeline")) != 1 {
			t.Errorf("a refused invite: %v", b.At("rooms", secret))
		}
		ben.Do("POST", Room(secret)+"/forget", M{}).OK(nil)
		if b = ben.Slide(q); b.At("lists", "all", "count") != 1.0 {
			t.Errorf("a forgotten room counts: %v", b.At("lists"))
		}
	})
}

func TestSlidingExtensions(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		room := anna.Create(M{"preset": "public_chat"})
		ben.Join(room)
		said := ben.Say(room, "hallo")
		own := V3 + "/user/" + url.PathEscape(string(anna.ID))
		anna.Do("PUT", own+"/rooms/"+url.PathEscape(room)+"/account_data/org.room", M{"a": 1}).OK(nil)
		ben.Do("PUT", V3+"/sendToDevice/m.x/1", M{"messages": M{string(anna.ID): M{"DEV1": M{"n": 1}}}}).OK(nil)
		since := ""
		ext := func() M {
			to := M{"enabled": true}
			if since != "" {
				to["since"] = since
			}
			return with(list(9, 5), M{"extensions": M{"to_device": to, "e2ee": M{"enabled": true}, "account_data": M{"enabled": true},
				"receipts": M{"enabled": true, "rooms": []string{"*"}}, "typing": M{"enabled": true}}})
		}
		a := anna.Slide(ext())
		if got := a.Events("extensions", "to_device", "events"); len(got) != 1 || At(got[0], "content", "n") != 1.0 {
			t.Errorf("to_device %v", got)
		}
		if a.At("extensions", "e2ee", "device_one_time_keys_count", "signed_curve25519") != 0.0 || a.At("extensions", "e2ee", "device_unused_fallback_key_types") == nil {
			t.Errorf("e2ee %v", a.At("extensions", "e2ee"))
		}
		if got := a.Events("extensions", "account_data", "global"); len(got) != 1 || got[0]["type"] != "m.push_rules" {
			t.Errorf("account data %v", got)
		}
		if got := a.Events("extensions", "account_data", "rooms", room); len(got) != 1 || got[0]["type"] != "org.room" {
			t.Errorf("account data of the room %v", got)
		}
		again := anna.Slide(ext())
		if got := again.Events("extensions", "to_device", "events"); len(got) != 1 {
			t.Errorf("without since a message comes again: %v", got)
		}
		since = again.At("extensions", "to_device", "next_batch").(string)
		if got := anna.Slide(ext()).Events("extensions", "to_device", "events"); len(got) != 0 {
			t.Errorf("received messages come again: %v", got)
		}
		since = ""
		if got := anna.Slide(ext()).Events("extensions", "to_device", "events"); len(got) != 0 {
			t.Errorf("received messages are not deleted: %v", got)
		}
		done := make(chan *Answer, 1)
		for what, act := range map[string]func(){
			"receipts": func() {
				ben.Do("POST", Room(room)+"/receipt/m.read/"+url.PathEscape(said), M{}).OK(nil)
			},
			"typing": func() {
				ben.Do("PUT", Room(room)+"/typing/"+url.PathEscape(string(ben.ID)), M{"typing": true, "timeout": 30000}).OK(nil)
			},
			"account_data": func() { anna.Do("PUT", own+"/account_data/org.x", M{"a": 1}).OK(nil) },
			"to_device": func() {
				ben.Do("PUT", V3+"/sendToDevice/m.x/2", M{"messages": M{string(anna.ID): M{"*": M{"n": 2}}}}).OK(nil)
			},
		} {
			q := with(ext(), M{"timeout": 20000})
			go func() { done <- anna.Slide(q) }()
			act()
			a := <-done
			since = a.At("extensions", "to_device", "next_batch").(string)
			for range 5 { // what takes no position may be shown twice, and wake the next request
				if a.At("extensions", what) == nil || what == "to_device" && len(a.Events("extensions", what, "events")) == 0 {
					a = anna.Slide(with(ext(), M{"timeout": 20000}))
					since = a.At("extensions", "to_device", "next_batch").(string)
				}
			}
			switch what {
			case "receipts":
				if a.At("extensions", what, "rooms", room, "content", said, "m.read", string(ben.ID)) == nil || a.At("extensions", what, "rooms", room, "type") != "m.receipt" {
					t.Errorf("receipts %v", a.At("extensions"))
				}
			case "typing":
				if a.At("extensions", what, "rooms", room, "content", "user_ids", 0) != string(ben.ID) {
					t.Errorf("typing %v", a.At("extensions"))
				}
			default:
				if a.At("extensions", what) == nil || len(roomsOf(a)) != 0 {
					t.Errorf("%s: %v", what, a.Body)
				}
			}
		}
		carla := g.Person("carla")
		carla.Join(room)
		if a := anna.Slide(ext()); a.At("extensions", "e2ee", "device_lists", "changed", 0) != string(carla.ID) {
			t.Errorf("device lists %v", a.At("extensions", "e2ee"))
		}
		// What the client did not ask for it does not get.
		if a := anna.Slide(list(9, 5)); len(a.At("extensions").(M)) != 0 {
			t.Errorf("extensions %v", a.At("extensions"))
		}
	})
}

func TestSlidingFilters(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		plain := anna.Create(M{})
		secret := anna.Create(M{"initial_state": []M{{"type": "m.room.encryption", "content": M{"algorithm": "m.megolm.v1.aes-sha2"}}}})
		space := anna.Create(M{"creation_content": M{"type": "m.space"}})
		anna.Do("PUT", Room(space)+"/state/m.space.child/"+url.PathEscape(plain), M{"via": []string{"a.test"}}).OK(nil)
		own := V3 + "/user/" + url.PathEscape(string(anna.ID))
		anna.Do("PUT", own+"/account_data/m.direct", M{string(ben.ID): []string{secret}}).OK(nil)
		anna.Do("PUT", own+"/rooms/"+url.PathEscape(plain)+"/tags/m.favourite", M{"order": 0.5}).OK(nil)
		invited := ben.Create(M{"preset": "private_chat"})
		ben.Invite(invited, anna)
		for name, c := range map[string]struct {
			filter M
			want   []string
		}{
			"dm":        {M{"is_dm": true}, []string{secret}},
			"no dm":     {M{"is_dm": false}, []string{plain, space, invited}},
			"encrypted": {M{"is_encrypted": true}, []string{secret}},
			"invites":   {M{"is_invite": true}, []string{invited}},
			"invited":   {M{"is_invited": false}, []string{plain, secret, space}},
			"spaces":    {M{"room_types": []any{"m.space"}}, []string{space}},
			"no type":   {M{"room_types": []any{nil}}, []string{plain, secret, invited}},
			"no spaces": {M{"not_room_types": []any{"m.space"}}, []string{plain, secret, invited}},
			"tags":      {M{"tags": []string{"m.favourite"}}, []string{plain}},
			"not tags":  {M{"not_tags": []string{"m.favourite"}}, []string{secret, space, invited}},
			"in space":  {M{"spaces": []string{space, "!nirgends:a.test"}}, []string{plain}},
		} {
			anna.Pos = ""
			a := anna.Slide(M{"lists": M{"l": M{"ranges": [][]int{{0, 20}}, "timeline_limit": 0, "required_state": []any{}, "filters": c.filter}}})
			slices.Sort(c.want)
			if got := roomsOf(a); !reflect.DeepEqual(got, c.want) || a.At("lists", "l", "count") != float64(len(c.want)) {
				t.Errorf("%s: %v, want %v", name, got, c.want)
			}
		}
		// A room that becomes a direct chat says so.
		anna.Pos = ""
		if a := anna.Slide(list(20, 1)); a.At("rooms", secret, "is_dm") != true || a.At("rooms", plain, "is_dm") != nil {
			t.Errorf("direct chats: %v", a.At("rooms"))
		}
		anna.Do("PUT", own+"/account_data/m.direct", M{string(ben.ID): []string{plain}}).OK(nil)
		if a := anna.Slide(list(20, 1)); a.At("rooms", plain, "is_dm") != true || a.At("rooms", secret, "is_dm") != false {
			t.Errorf("changed direct chats: %v", a.At("rooms"))
		}
	})
}

func TestSlidingBadRequests(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna := g.Person("anna")
		many := M{}
		for i := range 101 {
			many[fmt.Sprint("l", i)] = M{"timeline_limit": 1}
		}
		for name, c := range map[string]struct {
			request any
			code    string
		}{
			"no object":      {[]any{}, "M_BAD_JSON"},
			"lists":          {M{"lists": 1}, "M_BAD_JSON"},
			"null list":      {M{"lists": M{"a": nil}}, "M_INVALID_PARAM"},
			"no limit":       {M{"lists": M{"a": M{}}}, "M_MISSING_PARAM"},
			"negative limit": {M{"lists": M{"a": M{"timeline_limit": -1}}}, "M_INVALID_PARAM"},
			"range":          {M{"lists": M{"a": M{"timeline_limit": 1, "ranges": [][]int{{3, 1}}}}}, "M_INVALID_PARAM"},
			"short range":    {M{"lists": M{"a": M{"timeline_limit": 1, "range": []int{3}}}}, "M_INVALID_PARAM"},
			"many lists":     {M{"lists": many}, "M_INVALID_PARAM"},
			"required":       {M{"lists": M{"a": M{"timeline_limit": 1, "required_state": "all"}}}, "M_BAD_JSON"},
			"pairs":          {M{"lists": M{"a": M{"timeline_limit": 1, "required_state": [][]string{{"a"}}}}}, "M_INVALID_PARAM"},
			"presence":       {M{"set_presence": "away"}, "M_INVALID_PARAM"},
			"timeout":        {M{"timeout": -1}, "M_INVALID_PARAM"},
			"since":          {M{"extensions": M{"to_device": M{"enabled": true, "since": "x"}}}, "M_INVALID_PARAM"},
		} {
			t.Log(name)
			anna.Do("POST", Sliding, c.request).Fails(400, c.code)
		}
		anna.Do("POST", Sliding, M{}).OK(nil)
		g.Nobody(g.A).Do("POST", Sliding, M{}).Fails(401, "M_MISSING_TOKEN")
	})
}
