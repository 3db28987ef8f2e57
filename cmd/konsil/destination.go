// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/konsil-health/konsil/internal/homeserver/encryption"
	"github.com/konsil-health/konsil/internal/homeserver/federation"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

type destinationListCommand struct {
	tenantFlags
	Count int `default:"1000" help:"How many waiting events are counted at most per destination."`
}

// destinationLine is a destination in a list.
type destinationLine struct {
	federation.Destination
	// Messages are the to-device messages that wait, in units of federation (one per sender and message).
	Messages int `json:"to_device"`
}

// Run lists the destinations.
func (c *destinationListCommand) Run(ctx context.Context, out io.Writer) error {
	return c.rooms(ctx, func(s tenantRooms) error {
		list, err := federation.Destinations(ctx, s.DB, s.Service, s.t, c.Count)
		if err != nil {
			return err
		}
		messages, err := encryption.WaitingMessages(ctx, s.DB, s.t.ID)
		if err != nil {
			return err
		}
		lines := []destinationLine{}
		for _, d := range list {
			lines = append(lines, destinationLine{d, messages[d.Server]})
		}
		return c.print(out, lines, func(w io.Writer) {
			fmt.Fprintln(w, "DESTINATION\tSTATE\tFAILURES\tNEXT RETRY\tEVENTS\tTO-DEVICE\tLAST SUCCESS")
			for _, l := range lines {
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%d\t%s\n", l.Server, l.State, l.Failures, moment(l.RetryAt), atLeast(l.Events, c.Count), l.Messages, moment(l.Delivered))
			}
		})
	})
}

// moment is a time in a table, or a dash.
func moment(at *time.Time) string {
	if at == nil {
		return "-"
	}
	return at.Format(time.RFC3339)
}

// atLeast marks a number that was not counted to its end.
func atLeast(n, most int) string {
	if n >= most {
		return fmt.Sprintf("%d+", n)
	}
	return fmt.Sprint(n)
}

// destinationFlags are those of orders about a destination.
type destinationFlags struct {
	tenantFlags
	orderFlags
	Destination id.Server `arg:"" help:"Server name of the destination."`
}

func (c *destinationFlags) order(ctx context.Context, out io.Writer, act, done string) error {
	var reply map[string]id.Server
	err := c.orderFlags.order(ctx, &c.configFlags, "federation/"+act, map[string]any{"tenant": c.Tenant, "destination": c.Destination}, &reply)
	if err != nil {
		return err
	}
	return c.print(out, reply, func(w io.Writer) { fmt.Fprintf(w, "%s %s\n", c.Destination, done) })
}

type destinationRetryCommand struct{ destinationFlags }

// Run lets the destination be tried.
func (c *destinationRetryCommand) Run(ctx context.Context, out io.Writer) error {
	return c.order(ctx, out, "retry", "is tried now")
}

type destinationResetCommand struct{ destinationFlags }

// Run forgets the failures.
func (c *destinationResetCommand) Run(ctx context.Context, out io.Writer) error {
	return c.order(ctx, out, "reset", "starts afresh and is tried now")
}
