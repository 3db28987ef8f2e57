// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// client is one keep-alive HTTP/1.1 connection. It is leaner than net/http, because the load generator shares the processors with what it
// measures. It is used by one goroutine.
type client struct {
	conn   net.Conn
	host   string
	reader *bufio.Reader
	out    []byte
	body   []byte
	// contentType replaces application/json.
	contentType string
}

const (
	// answerWithin bounds one request, maxAnswer its answer.
	answerWithin = 30 * time.Second
	maxAnswer    = 16 << 20
)

func dial(address string) (*client, error) {
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return nil, err
	}
	return &client{conn: conn, host: address, reader: bufio.NewReader(conn)}, nil
}

func (c *client) close() { c.conn.Close() }

// do sends a request and returns status and body; the body is overwritten by the next call.
func (c *client) do(method, path, token string, body []byte) (int, []byte, error) {
	return c.doWithin(answerWithin, method, path, token, body)
}

func (c *client) doWithin(d time.Duration, method, path, token string, body []byte) (int, []byte, error) {
	b := c.out[:0]
	b = append(b, method...)
	b = append(b, ' ')
	b = append(b, path...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, c.host...)
	if token != "" {
		b = append(b, "\r\nAuthorization: Bearer "...)
		b = append(b, token...)
	}
	b = append(b, "\r\nContent-Type: "...)
	b = append(b, cmp.Or(c.contentType, "application/json")...)
	b = append(b, "\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(b, "\r\n\r\n"...)
	b = append(b, body...)
	c.out = b
	if err := c.conn.SetDeadline(time.Now().Add(d)); err != nil {
		return 0, nil, err
	}
	if _, err := c.conn.Write(b); err != nil {
		return 0, nil, err
	}
	return c.answer()
}

// answer reads what the server sends: status, headers of which only the length counts, body in one piece or in several.
func (c *client) answer() (int, []byte, error) {
	line, err := c.reader.ReadSlice('\n')
	if err != nil {
		return 0, nil, err
	}
	if len(line) < 12 {
		return 0, nil, fmt.Errorf("status line %q", line)
	}
	status, err := strconv.Atoi(string(line[9:12]))
	if err != nil {
		return 0, nil, fmt.Errorf("status line %q", line)
	}
	length, pieces := -1, false
	for {
		line, err := c.reader.ReadSlice('\n')
		if err != nil {
			return 0, nil, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch value = bytes.TrimSpace(value); {
		case strings.EqualFold(string(name), "Content-Length"):
			if length, err = strconv.Atoi(string(value)); err != nil {
				return 0, nil, err
			}
		case strings.EqualFold(string(name), "Transfer-Encoding"):
			pieces = string(value) == "chunked"
		}
	}
	if pieces {
		c.body, err = c.pieces()
		return status, c.body, err
	}
	if length < 0 || length > maxAnswer {
		return 0, nil, fmt.Errorf("answer without a usable length (%d)", length)
	}
	if cap(c.body) < length {
		c.body = make([]byte, length)
	}
	c.body = c.body[:length]
	_, err = io.ReadFull(c.reader, c.body)
	return status, c.body, err
}

// pieces reads a body that comes in pieces, and the empty line behind them.
func (c *client) pieces() ([]byte, error) {
	body := bytes.NewBuffer(c.body[:0])
	if _, err := io.Copy(body, io.LimitReader(httputil.NewChunkedReader(c.reader), maxAnswer)); err != nil {
		return nil, err
	}
	_, err := c.reader.ReadSlice('\n')
	return body.Bytes(), err
}

// call is do for the preparation: JSON in and out, anything but 200 is an error.
func (c *client) call(method, path, token string, in any, out any) error {
	return c.callWithin(answerWithin, method, path, token, in, out)
}

func (c *client) callWithin(d time.Duration, method, path, token string, in any, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	status, answer, err := c.doWithin(d, method, path, token, body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if status != 200 {
		return fmt.Errorf("%s %s: %d %s", method, path, status, answer)
	}
	return json.Unmarshal(answer, out)
}
