// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// roomOrderFlags are those of orders about a room.
type roomOrderFlags struct {
	roomFlags
	orderFlags
}

func (c *roomOrderFlags) order(ctx context.Context, act string, force bool, reply any) error {
	return c.orderFlags.order(ctx, &c.configFlags, "room/"+act, map[string]any{"tenant": c.Tenant, "room": c.Room, "force": force}, reply)
}

type roomMergeCommand struct{ roomOrderFlags }

// Run joins the extremities.
func (c *roomMergeCommand) Run(ctx context.Context, out io.Writer) error {
	var reply struct {
		Before int `json:"before"`
		After  int `json:"after"`
	}
	if err := c.order(ctx, "merge-extremities", false, &reply); err != nil {
		return err
	}
	return c.print(out, reply, func(w io.Writer) {
		fmt.Fprintf(w, "%d forward extremities before, %d now\n", reply.Before, reply.After)
	})
}

type roomPurgeCommand struct {
	roomOrderFlags
	Yes   bool `short:"y" help:"Do not ask."`
	Force bool `help:"Purge even while users of this server are in the room."`
}

// Run removes the room after a question.
func (c *roomPurgeCommand) Run(ctx context.Context, out io.Writer) error {
	if !c.Yes {
		fmt.Fprintf(out, "Remove %s of %s with all of its messages for good? Type the room id to go on: ", c.Room, c.Tenant)
		answer, err := bufio.NewReader(os.Stdin).ReadString('\n')
		if strings.TrimSpace(answer) != string(c.Room) {
			return errors.Join(errors.New("nothing was removed"), ignoreEnd(err))
		}
	}
	var reply struct {
		Purged bool `json:"purged"`
	}
	if err := c.order(ctx, "purge", c.Force, &reply); err != nil {
		return err
	}
	return c.print(out, reply, func(w io.Writer) { fmt.Fprintf(w, "%s is removed\n", c.Room) })
}

func ignoreEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
