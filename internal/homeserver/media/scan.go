// SPDX-License-Identifier: Apache-2.0

package media

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// clamd asks a ClamAV daemon about content (clamd(8), INSTREAM). Encrypted files tell it nothing; their recipients' devices have to look.
type clamd struct{ network, address string }

const (
	scanChunk = 64 << 10
	// scanTime bounds one scan.
	scanTime = 2 * time.Minute
)

// newClamd takes an address: host:port, or unix:/path of a socket.
func newClamd(address string) clamd {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return clamd{"unix", path}
	}
	return clamd{"tcp", address}
}

// The answers to what cannot be let in. Without an answer of the daemon nothing is.
var (
	errInfected    = mxerror.Forbidden.With("Die Datei enthält Schadsoftware und wurde nicht angenommen. / The file contains malware and was not accepted.")
	errUnscannable = mxerror.New(503, "M_UNKNOWN", "Dateien können gerade nicht geprüft werden; bitte später noch einmal. / Files cannot be checked at the moment; please try again later.")
	errScanLimit   = mxerror.TooLarge.With("Die Datei ist zu groß, um geprüft zu werden. / The file is too large to be checked.")
)

// scan returns nil for clean content.
func (c clamd) scan(ctx context.Context, content io.Reader) error {
	answer, err := c.ask(ctx, content)
	switch {
	case strings.Contains(answer, "size limit exceeded"): // clamd's StreamMaxLength; it may hang up before all is sent
		return errScanLimit
	case err != nil:
		return fmt.Errorf("%w (clamd: %w)", errUnscannable, err)
	case strings.HasSuffix(answer, " FOUND"):
		return errInfected
	case answer == "stream: OK":
		return nil
	}
	return fmt.Errorf("%w (clamd: %q)", errUnscannable, answer)
}

func (c clamd) ask(ctx context.Context, content io.Reader) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, scanTime)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, c.network, c.address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	sent := stream(conn, content)
	answer, err := bufio.NewReader(io.LimitReader(conn, 4096)).ReadString(0)
	answer = strings.TrimRight(answer, "\x00\n")
	if answer != "" {
		return answer, nil
	}
	return "", errors.Join(sent, err)
}

// stream sends content in chunks, each after its length; an empty one ends it.
func stream(w io.Writer, content io.Reader) error {
	if _, err := io.WriteString(w, "zINSTREAM\x00"); err != nil {
		return err
	}
	chunk := make([]byte, 4+scanChunk)
	for {
		n, err := io.ReadFull(content, chunk[4:])
		if n > 0 {
			binary.BigEndian.PutUint32(chunk, uint32(n))
			if _, err := w.Write(chunk[:4+n]); err != nil {
				return err
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return err
		}
	}
	_, err := w.Write(make([]byte, 4))
	return err
}
