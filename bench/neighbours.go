// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// neighbourRooms is how many users write in a room of their own at once.
const neighbourRooms = 16

// neighbours measures messages per second between two tenants of one process, each of which keeps its own copy of a room, beside sends within
// one tenant.
func neighbours(ctx context.Context, o Options, r *Report) (err error) {
	p, err := newPlace(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.remove()) }()
	const other = "neighbour.localhost"
	s, err := start(ctx, o, p, serverName, other)
	if err != nil {
		return err
	}
	defer s.kill()
	register := func(host, name string) (*sender, string, error) {
		c, err := dial(s.client)
		if err != nil {
			return nil, "", err
		}
		c.host = host
		var session struct {
			Token string `json:"access_token"`
			User  string `json:"user_id"`
		}
		err = c.call("POST", "/_matrix/client/v3/register", "", map[string]any{
			"username": name, "password": "a long bench passphrase", "auth": map[string]string{"type": "m.login.dummy"}}, &session)
		return &sender{client: c, token: session.Token}, session.User, err
	}
	guest, guestName, err := register(other, "guest")
	if err != nil {
		return err
	}
	defer guest.close()
	var alone, shared []*sender
	defer func() {
		for _, x := range append(alone, shared...) {
			x.close()
		}
	}()
	o.Progress("making users and rooms")
	for i := range 2 * neighbourRooms {
		x, _, err := register(serverName, fmt.Sprintf("sender%d", i))
		if err != nil {
			return err
		}
		alone = append(alone, x) // so that it is closed
		invited := []string{}
		if i >= neighbourRooms {
			invited = append(invited, guestName)
		}
		var room struct {
			ID string `json:"room_id"`
		}
		if err := x.call("POST", "/_matrix/client/v3/createRoom", x.token, map[string]any{"preset": "private_chat", "invite": invited}, &room); err != nil {
			return err
		}
		x.room = url.PathEscape(room.ID)
		if i >= neighbourRooms {
			if err := guest.call("POST", "/_matrix/client/v3/join/"+x.room+"?via="+serverName, guest.token, map[string]any{}, &room); err != nil {
				return err
			}
			alone, shared = alone[:neighbourRooms], append(shared, x)
		}
	}
	for _, c := range []struct {
		name string
		all  []*sender
	}{{"within", alone}, {"between", shared}} {
		o.Progress(c.name)
		if _, err := run(ctx, c.all, warmUp); err != nil {
			return err
		}
		if c.name == "between" {
			if err := arrived(ctx, guest, c.all); err != nil {
				return err
			}
		}
		before, err := s.metrics(ctx)
		if err != nil {
			return err
		}
		profiled := make(chan error, 1)
		if c.name == "between" {
			go func() { profiled <- s.maybeProfile(ctx, o) }()
		} else {
			profiled <- nil
		}
		began := time.Now()
		sent, err := run(ctx, c.all, o.Duration)
		if err != nil {
			return err
		}
		took := sent
		if c.name == "between" {
			if err := arrived(ctx, guest, c.all); err != nil {
				return err
			}
			took = time.Since(began)
			r.Figures["seconds_behind_after_the_load"] = round((took - sent).Seconds())
		}
		after, err := s.metrics(ctx)
		if err = errors.Join(err, <-profiled); err != nil {
			return err
		}
		events := 0.0
		for _, x := range c.all {
			events += float64(len(x.latencies))
		}
		r.Figures["messages_per_second_"+c.name] = round(events / took.Seconds())
		r.Figures["cpu_us_per_message_"+c.name] = round((after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]) * 1e6 / events)
		r.Figures["statements_per_message_"+c.name] = round((after["konsil_database_statements_total"] - before["konsil_database_statements_total"]) / events)
	}
	r.Ratios["between_to_within"] = round(r.Figures["messages_per_second_between"] / r.Figures["messages_per_second_within"])
	return s.stop()
}

// arrived waits until the guest has every sender's newest message.
func arrived(ctx context.Context, guest *sender, all []*sender) error {
	end := time.Now().Add(2 * time.Minute)
	for _, x := range all {
		for {
			status, body, err := guest.do("GET", "/_matrix/client/v3/rooms/"+x.room+"/messages?dir=b&limit=1", guest.token, nil)
			if err != nil || status != 200 {
				return errors.Join(fmt.Errorf("messages: %d %s", status, body), err)
			}
			if strings.Contains(string(body), `"`+x.last+`"`) {
				break
			}
			if time.Now().After(end) || ctx.Err() != nil {
				return errors.New("messages do not reach the neighbour")
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return nil
}
