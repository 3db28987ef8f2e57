// SPDX-License-Identifier: Apache-2.0

package browsertest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// errEnded is the answer when the browser is no more.
var errEnded = errors.New("Chromium ended")

// message is what goes over the pipe in either direction: a command and its answer bear an id, an event does not.
type message struct {
	ID      int             `json:"id,omitempty"`
	Session string          `json:"sessionId,omitempty"`
	Method  string          `json:"method,omitempty"`
	Params  json.RawMessage `json:"params,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

// pipe carries the DevTools protocol: JSON texts, each ended by a zero byte.
type pipe struct {
	files [2]*os.File // reading, writing
	ended chan struct{}

	mu      sync.Mutex
	last    int
	answers map[int]chan message
	events  map[string]func(message) // by session; they must not block
}

func newPipe(files [2]*os.File) *pipe {
	p := &pipe{files: files, ended: make(chan struct{}), answers: map[int]chan message{}, events: map[string]func(message){}}
	go p.read()
	return p
}

func (p *pipe) read() {
	defer close(p.ended)
	r := bufio.NewReaderSize(p.files[0], 1<<16)
	for {
		text, err := r.ReadBytes(0)
		if err != nil {
			return
		}
		var m message
		if json.Unmarshal(text[:len(text)-1], &m) != nil {
			continue
		}
		p.mu.Lock()
		answer, hear := p.answers[m.ID], p.events[m.Session]
		delete(p.answers, m.ID)
		p.mu.Unlock()
		switch {
		case m.ID != 0 && answer != nil:
			answer <- m
		case m.ID == 0 && hear != nil:
			hear(m)
		}
	}
}

// call runs a command and decodes its result into into (nil: not wanted).
func (p *pipe) call(session, method string, params map[string]any, into any) error {
	text, err := json.Marshal(params)
	if err != nil {
		return err
	}
	answer := make(chan message, 1)
	p.mu.Lock()
	p.last++
	m := message{ID: p.last, Session: session, Method: method}
	if params != nil {
		m.Params = text
	}
	p.answers[m.ID] = answer
	text, err = json.Marshal(m)
	if err == nil {
		_, err = p.files[1].Write(append(text, 0))
	}
	p.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case m = <-answer:
	case <-p.ended:
		return errEnded
	case <-time.After(within):
		return fmt.Errorf("%s: no answer", method)
	}
	if m.Error != nil {
		return fmt.Errorf("%s: %s", method, m.Error.Message)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(m.Result, into)
}

// hear sets what gets the events of a session.
func (p *pipe) hear(session string, f func(message)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events[session] = f
}

func (p *pipe) close() {
	p.files[1].Close()
	<-p.ended
	p.files[0].Close()
}
