// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package tour

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/konsil-health/konsil/internal/demo"
	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/tour/messenger"
	"maunium.net/go/mautrix/id"
)

// Options shape a tour.
type Options struct {
	// Folder keeps the network's data; it should be empty.
	Folder string
	// Databases are the URLs for both providers and the central services; empty is SQLite in the folder.
	Databases [3]string
	// Out is told each step; nil says nothing.
	Out io.Writer
	// Log takes the log of all parts; nil drops it.
	Log *slog.Logger
	// Configure changes a provider's configuration before its start; nil changes nothing.
	Configure func(*config.Config)
}

// entries is how many directory entries are invented beside the cast: enough that finding somebody means something.
const entries = 500

// within bounds the whole walk, so that a step that waits for something that never comes ends.
const within = 5 * time.Minute

// walk is a tour on its way.
type walk struct {
	Options
	network *demo.Network
	began   time.Time
	n       int

	anna, lena *physician
	room       id.RoomID
	// said are the texts of the conversation in order, by sender.
	said map[id.UserID][]string
}

// physician is one of the two.
type physician struct {
	*messenger.Device
	demo.Person
	home        demo.Organisation
	recoveryKey string
}

// Run walks through the consultation. The first step that does not come out as it must ends it with an error.
func Run(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	w := &walk{Options: o, began: time.Now(), said: map[id.UserID][]string{}}
	if w.Out == nil {
		w.Out = io.Discard
	}
	if err := w.step("Two providers, a directory, a card PKI and the federation list start", w.start(ctx)); err != nil {
		return err
	}
	err := w.all(ctx)
	for _, p := range []*physician{w.anna, w.lena} {
		if p != nil {
			p.Close()
		}
	}
	if err = errors.Join(err, w.network.Close()); err != nil {
		return err
	}
	fmt.Fprintf(w.Out, "\nAll of it worked, in %.1f s.\n", time.Since(w.began).Seconds())
	return nil
}

func (w *walk) all(ctx context.Context) error {
	for _, s := range []struct {
		what string
		do   func(context.Context) (string, error)
	}{
		{w.newcomer().Name + " registers with its SMC-B and gets a messenger at provider " + demo.Providers[1], w.register},
		{"Dr. Anna Weber of " + w.home().Name + " (provider " + demo.Providers[0] + ") signs in", w.annaSignsIn},
		{"Dr. Lena Seidel of the new practice signs in", w.lenaSignsIn},
		{"Lena makes herself visible in the directory, with her card", w.publish},
		{"Anna searches the directory for a cardiologist named Seidel", w.search},
		{"Lena blocks everybody: Anna's invitation is refused", w.blocked},
		{"Lena allows Anna: the invitation arrives, Lena joins the encrypted room", w.allowed},
		{"They write to each other", w.talk},
		{"They compare fingerprints and verify each other by cross-signing", w.verify},
		{"Anna sends an encrypted ECG, Lena opens it", w.attachment},
		{"A server that is not on the federation list is refused", w.strangerComes},
		{"Anna cannot reach people outside the federation list", w.strangerIsInvited},
		{"Provider " + demo.Providers[1] + " restarts while Anna goes on writing", w.restart},
		{"Nothing was lost, nothing came twice", w.account},
		{"Lena signs in on a new telephone and reads everything from her key backup", w.newDevice},
	} {
		if err := w.step(s.what, func() (string, error) { return s.do(ctx) }); err != nil {
			return err
		}
	}
	return nil
}

// step runs one step and says how it came out and how long it took.
func (w *walk) step(what string, do func() (string, error)) error {
	w.n++
	fmt.Fprintf(w.Out, "%2d  %s\n", w.n, what)
	begin := time.Now()
	came, err := do()
	if err != nil {
		fmt.Fprintf(w.Out, "    failed: %v\n", err)
		return fmt.Errorf("step %d (%s): %w", w.n, what, err)
	}
	fmt.Fprintf(w.Out, "    %s (%.0f ms)\n", came, float64(time.Since(begin).Microseconds())/1000)
	return nil
}

func (w *walk) start(ctx context.Context) func() (string, error) {
	return func() (came string, err error) {
		w.network, err = demo.Start(ctx, demo.Options{Folder: filepath.Clean(w.Folder), Databases: w.Databases, Entries: entries, Log: w.Log, Configure: w.Configure})
		if err != nil {
			return "", err
		}
		return "every client of every organisation uses " + w.network.URL, nil
	}
}

func (*walk) newcomer() demo.Organisation { return demo.Newcomer }

func (*walk) home() demo.Organisation { return demo.Cast[0] }

// text sends a text and remembers it.
func (w *walk) text(ctx context.Context, from, to *physician, text string) error {
	sent, err := from.Send(ctx, w.room, text)
	if err != nil {
		return fmt.Errorf("%s cannot send: %w", from.Family, err)
	}
	w.said[from.User()] = append(w.said[from.User()], text)
	if to == nil {
		return nil
	}
	m, err := w.read(ctx, to, sent)
	if err != nil {
		return err
	}
	if m.Text != text || !m.Encrypted || m.Sender != from.User() {
		return fmt.Errorf("%s reads %q from %s (encrypted: %v), %q was sent", to.Family, m.Text, m.Sender, m.Encrypted, text)
	}
	return nil
}

// read waits until somebody can read a message.
func (w *walk) read(ctx context.Context, p *physician, eventID id.EventID) (*messenger.Message, error) {
	r := p.Room(w.room)
	err := p.Until(ctx, "message "+eventID.String(), func() bool {
		m := r.Message(eventID)
		return m != nil && m.Unreadable == nil
	})
	if err != nil {
		if m := r.Message(eventID); m != nil {
			err = errors.Join(err, m.Unreadable)
		}
		return nil, fmt.Errorf("%s: %w", p.Family, err)
	}
	return r.Message(eventID), nil
}
