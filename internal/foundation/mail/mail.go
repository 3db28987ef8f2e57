// SPDX-License-Identifier: Apache-2.0

package mail

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net"
	netmail "net/mail"
	"net/smtp"
	"strings"
	"time"
)

// The ways in which a connection is encrypted.
const (
	StartTLS = "starttls" // plain, then STARTTLS, which the server must offer
	TLS      = "tls"      // from the first byte on
	None     = "none"     // never: only for a mail server on the same machine
)

// Config says how mail is sent.
type Config struct {
	// Server is the mail server's host:port.
	Server string
	// User and Password sign in by PLAIN; an empty user does not sign in. Without encryption they are sent to loopback only.
	User, Password string
	// From is the sender, with or without a name.
	From string
	// Encryption is one of the constants above.
	Encryption string
	// Roots replace the system's root certificates; nil does not.
	Roots *x509.CertPool
}

// timeout bounds one message, from the connection to its acceptance.
const timeout = 30 * time.Second

// Sender sends messages. It is safe for concurrent use and keeps no connection.
type Sender struct {
	c    Config
	from *netmail.Address
	host string
}

// New checks the configuration.
func New(c Config) (*Sender, error) {
	from, err := netmail.ParseAddress(c.From)
	if err != nil {
		return nil, fmt.Errorf("mail sender %q: %w", c.From, err)
	}
	host, _, err := net.SplitHostPort(c.Server)
	if err != nil {
		return nil, fmt.Errorf("mail server %q: %w", c.Server, err)
	}
	return &Sender{c, from, host}, nil
}

// Send hands one plain-text message to the mail server and returns when that has taken it.
func (s *Sender) Send(ctx context.Context, to, subject, text string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	message, err := s.message(to, subject, text)
	if err != nil {
		return err
	}
	client, err := s.dial(ctx)
	if err != nil {
		return fmt.Errorf("mail server: %w", err)
	}
	defer client.Close()
	if err := s.hand(client, to, message); err != nil {
		return fmt.Errorf("mail server: %w", err)
	}
	return nil
}

func (s *Sender) dial(ctx context.Context) (*smtp.Client, error) {
	config := &tls.Config{ServerName: s.host, RootCAs: s.c.Roots, MinVersion: tls.VersionTLS12}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.c.Server)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	if s.c.Encryption == TLS {
		conn = tls.Client(conn, config)
	}
	client, err := smtp.NewClient(conn, s.host)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if s.c.Encryption == StartTLS {
		if err := client.StartTLS(config); err != nil {
			return nil, errors.Join(err, client.Close())
		}
	}
	if s.c.User != "" {
		if err := client.Auth(smtp.PlainAuth("", s.c.User, s.c.Password, s.host)); err != nil {
			return nil, errors.Join(err, client.Close())
		}
	}
	return client, nil
}

func (s *Sender) hand(client *smtp.Client, to string, message []byte) error {
	if err := client.Mail(s.from.Address); err != nil {
		return err
	}
	if err := client.Rcpt(to); err != nil {
		return err
	}
	w, err := client.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(message); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return client.Quit()
}

// message writes headers and text (RFC 5322). Addresses with line breaks never come here: they do not parse.
func (s *Sender) message(to, subject, text string) ([]byte, error) {
	recipient, err := netmail.ParseAddress(to)
	if err != nil {
		return nil, fmt.Errorf("mail recipient: %w", err)
	}
	unique := make([]byte, 16)
	rand.Read(unique)
	_, domain, _ := strings.Cut(s.from.Address, "@")
	var b bytes.Buffer
	for _, h := range [][2]string{
		{"From", s.from.String()}, {"To", recipient.String()}, {"Subject", mime.QEncoding.Encode("utf-8", subject)},
		{"Date", time.Now().Format(time.RFC1123Z)}, {"Message-ID", "<" + hex.EncodeToString(unique) + "@" + domain + ">"},
		{"Auto-Submitted", "auto-generated"}, {"MIME-Version", "1.0"},
		{"Content-Type", "text/plain; charset=utf-8"}, {"Content-Transfer-Encoding", "quoted-printable"},
	} {
		b.WriteString(h[0] + ": " + h[1] + "\r\n")
	}
	b.WriteString("\r\n")
	q := quotedprintable.NewWriter(&b)
	if _, err := q.Write([]byte(strings.ReplaceAll(text, "\n", "\r\n"))); err != nil {
		return nil, err
	}
	err = q.Close()
	return b.Bytes(), err
}
