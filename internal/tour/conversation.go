// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package tour

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"github.com/konsil-health/konsil/internal/tour/messenger"
)

// talk lets both write.
func (w *walk) talk(ctx context.Context) (string, error) {
	lines := []struct {
		from, to *physician
		text     string
	}{
		{w.anna, w.lena, "Guten Tag Frau Kollegin, haben Sie Zeit für ein Konsil? 58-jähriger Patient, neu aufgetretene Palpitationen."},
		{w.lena, w.anna, "Gern. Gibt es ein EKG?"},
		{w.anna, w.lena, "Ja, ich schicke es Ihnen."},
	}
	for _, l := range lines {
		if err := w.text(ctx, l.from, l.to, l.text); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d messages both ways, readable by these two devices alone", len(lines)), nil
}

// verify lets each compare what the server says of the other with what the other says face to face.
func (w *walk) verify(ctx context.Context) (string, error) {
	for _, pair := range [][2]*physician{{w.anna, w.lena}, {w.lena, w.anna}} {
		told, err := pair[1].Fingerprint(ctx)
		if err != nil {
			return "", err
		}
		if err := pair[0].Verify(ctx, pair[1].User(), told); err != nil {
			return "", err
		}
		trusts, err := pair[0].Trusts(ctx, pair[1].User())
		if err != nil {
			return "", err
		}
		if !trusts {
			return "", fmt.Errorf("%s does not trust %s's devices", pair[0].Family, pair[1].Family)
		}
	}
	// From now on a message carries that trust.
	sent, err := w.lena.Send(ctx, w.room, "Jetzt wissen wir, mit wem wir sprechen.")
	if err != nil {
		return "", err
	}
	w.said[w.lena.User()] = append(w.said[w.lena.User()], "Jetzt wissen wir, mit wem wir sprechen.")
	m, err := w.read(ctx, w.anna, sent)
	if err != nil {
		return "", err
	}
	if m.Trust != id.TrustStateCrossSignedVerified {
		return "", fmt.Errorf("the next message has trust %s", m.Trust)
	}
	return "all devices of both are trusted from now on", nil
}

// attachment sends a file that neither provider can read.
func (w *walk) attachment(ctx context.Context) (string, error) {
	recording := bytes.Repeat([]byte("EKG 25 mm/s 10 mm/mV\n"), 12_000)
	sent, err := w.anna.SendFile(ctx, w.room, "EKG.pdf", "application/pdf", recording)
	if err != nil {
		return "", err
	}
	w.said[w.anna.User()] = append(w.said[w.anna.User()], "EKG.pdf")
	m, err := w.read(ctx, w.lena, sent)
	if err != nil {
		return "", err
	}
	got, err := w.lena.Download(ctx, m)
	if err != nil {
		return "", err
	}
	if !bytes.Equal(got, recording) {
		return "", errors.New("the file came with other bytes")
	}
	return fmt.Sprintf("%s, %d kB, fetched from the other provider and decrypted", m.Text, len(got)/1000), nil
}

// whileAway is how many messages Anna writes while Lena's provider restarts.
const whileAway = 12

// restart stops and starts Lena's provider while Anna goes on writing.
func (w *walk) restart(ctx context.Context) (string, error) {
	if err := w.text(ctx, w.anna, nil, "Vor dem Neustart."); err != nil {
		return "", err
	}
	restarted := make(chan error, 1)
	go func() { restarted <- w.network.Providers[1].Restart(ctx) }()
	for i := range whileAway {
		if err := w.text(ctx, w.anna, nil, fmt.Sprintf("Während des Neustarts, %d.", i+1)); err != nil {
			return "", errors.Join(err, <-restarted)
		}
	}
	if err := <-restarted; err != nil {
		return "", err
	}
	if err := w.text(ctx, w.anna, w.lena, "Nach dem Neustart."); err != nil {
		return "", err
	}
	if err := w.text(ctx, w.lena, w.anna, "Vorhofflimmern. Bitte antikoagulieren, ich sehe ihn morgen um neun."); err != nil {
		return "", err
	}
	return fmt.Sprintf("Anna wrote %d messages meanwhile, Lena has answered", whileAway), nil
}

// account compares what both read with what both have written.
func (w *walk) account(ctx context.Context) (string, error) {
	n := 0
	for _, sender := range []*physician{w.anna, w.lena} {
		said := w.said[sender.User()]
		n += len(said)
		for _, reader := range []*physician{w.anna, w.lena} {
			if err := w.complete(ctx, reader.Device, sender.User(), said); err != nil {
				return "", fmt.Errorf("%s: %w", reader.Family, err)
			}
		}
	}
	return fmt.Sprintf("%d messages, each once and in order on both sides", n), nil
}

// complete waits until a device has all texts of a sender, and compares.
func (w *walk) complete(ctx context.Context, d *messenger.Device, sender id.UserID, said []string) error {
	r := d.Room(w.room)
	if err := d.Until(ctx, "all messages", func() bool { return len(r.Texts(sender)) >= len(said) }); err != nil {
		return err
	}
	if got := r.Texts(sender); !slices.Equal(got, said) {
		return fmt.Errorf("reads %q from %s, written was %q", got, sender, said)
	}
	if len(r.Doubled) > 0 {
		return fmt.Errorf("the server brought twice: %v", r.Doubled)
	}
	return nil
}

// newDevice lets Lena go on elsewhere.
func (w *walk) newDevice(ctx context.Context) (string, error) {
	keys, err := w.lena.BackUp(ctx)
	if err != nil {
		return "", err
	}
	phone, err := w.device(ctx, w.lena)
	if err != nil {
		return "", err
	}
	defer phone.Close()
	if err := phone.Recover(ctx, w.lena.recoveryKey); err != nil {
		return "", err
	}
	if err := phone.History(ctx, w.room); err != nil {
		return "", err
	}
	for _, sender := range []*physician{w.anna, w.lena} {
		if got, said := phone.Room(w.room).Texts(sender.User()), w.said[sender.User()]; !slices.Equal(got, said) {
			return "", fmt.Errorf("reads %q from %s, written was %q", got, sender.User(), said)
		}
	}
	return fmt.Sprintf("%d keys from the backup open all of the conversation", keys), nil
}
