// SPDX-License-Identifier: Apache-2.0

// Package mailtest is a mail server that keeps what it is given. Only tests import it.
package mailtest

import (
	"bufio"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"strings"
	"testing"
	"time"
)

// Message is a mail as it came.
type Message struct {
	From, To, Subject, Text string
}

// Sink is a mail server on loopback that speaks as much of SMTP as a sender needs.
type Sink struct {
	Address string
	mails   chan Message
}

// New starts a sink that ends with the test.
func New(t testing.TB) *Sink {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s := &Sink{Address: l.Addr().String(), mails: make(chan Message, 100)}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(c)
		}
	}()
	return s
}

// Next waits for the next mail.
func (s *Sink) Next(t testing.TB) Message {
	t.Helper()
	select {
	case m := <-s.mails:
		return m
	case <-time.After(time.Minute):
		t.Fatal("no mail came")
		return Message{}
	}
}

// None fails the test when a mail has come that nobody took.
func (s *Sink) None(t testing.TB) {
	t.Helper()
	select {
	case m := <-s.mails:
		t.Fatalf("a mail that should not be: %+v", m)
	default:
	}
}

// serve answers one connection.
func (s *Sink) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	say := func(line string) { fmt.Fprintf(c, "%s\r\n", line) }
	say("220 sink ready")
	var m Message
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSpace(line)
		switch word := strings.ToUpper(line); {
		case strings.HasPrefix(word, "EHLO"), strings.HasPrefix(word, "HELO"), strings.HasPrefix(word, "RSET"):
			say("250 sink")
		case strings.HasPrefix(word, "MAIL FROM:"):
			m = Message{From: between(line)}
			say("250 ok")
		case strings.HasPrefix(word, "RCPT TO:"):
			m.To = between(line)
			say("250 ok")
		case word == "DATA":
			say("354 go on")
			if !s.take(r, m) {
				return
			}
			say("250 taken")
		case word == "QUIT":
			say("221 bye")
			return
		default:
			say("502 not here")
		}
	}
}

func (s *Sink) take(r *bufio.Reader, m Message) bool {
	var raw strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return false
		}
		if line == ".\r\n" {
			break
		}
		raw.WriteString(strings.TrimPrefix(line, "."))
	}
	parsed, err := mail.ReadMessage(strings.NewReader(raw.String()))
	if err != nil {
		return false
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(parsed.Header.Get("Subject"))
	if err != nil {
		return false
	}
	text, err := io.ReadAll(quotedprintable.NewReader(parsed.Body))
	if err != nil {
		return false
	}
	m.Subject, m.Text = subject, string(text)
	s.mails <- m
	return true
}

func between(line string) string {
	_, rest, _ := strings.Cut(line, "<")
	address, _, _ := strings.Cut(rest, ">")
	return address
}
