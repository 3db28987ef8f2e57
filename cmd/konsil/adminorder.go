// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/go-json-experiment/json"
)

// orderFlags are those of commands that the running server carries out.
type orderFlags struct {
	Operator string `placeholder:"ADDRESS" help:"Address of the running server's operator listener. Default: listeners.operator of the configuration."`
}

// order asks the running server to do something, named by its path below /admin/.
func (c *orderFlags) order(ctx context.Context, f *configFlags, act string, subject map[string]any, reply any) error {
	address := c.Operator
	if address == "" {
		checked, err := f.load()
		if err != nil {
			return err
		}
		if address = checked.Listeners.Operator; address == "" {
			return errors.New("the configuration has no listeners.operator: the running server cannot be reached")
		}
	}
	body, err := json.Marshal(subject)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/admin/"+act, bytes.NewReader(body))
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
