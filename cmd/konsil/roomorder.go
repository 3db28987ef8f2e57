// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/go-json-experiment/json"
)

// orderFlags are those of commands that the running server carries out.
type orderFlags struct {
	roomFlags
	Operator string `placeholder:"ADDRESS" help:"Address of the running server's operator listener. Default: listeners.operator of the configuration."`
}

// order asks the running server.
func (c *orderFlags) order(ctx context.Context, act string, force bool, reply any) error {
	address := c.Operator
	if address == "" {
		checked, err := c.load()
		if err != nil {
			return err
		}
		if address = checked.Listeners.Operator; address == "" {
			return errors.New("the configuration has no listeners.operator: the running server cannot be reached")
		}
	}
	body, err := json.Marshal(map[string]any{"tenant": c.Tenant, "room": c.Room, "force": force})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/admin/room/"+act, bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("the running server does not answer: %w", err)
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		var failed struct {
			Error string `json:"error"`
		}
		if json.Unmarshal(raw, &failed) != nil || failed.Error == "" {
			failed.Error = answer.Status
		}
		return errors.New(plain(failed.Error))
	}
	return json.Unmarshal(raw, reply)
}

type roomMergeCommand struct{ orderFlags }

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
	orderFlags
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
