// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package server_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"maunium.net/go/mautrix/id"

	"github.com/konsil-health/konsil/internal/konsiltest"
)

// script is matrix-js-sdk with Rust crypto in a Node process of its own (testdata/jsclient).
type script struct {
	s      story
	in     io.WriteCloser
	lines  chan map[string]any
	news   []map[string]any
	last   float64
	errors *bytes.Buffer
}

// scriptFiles are what Node needs; they are copied beside the installed packages, so that the source tree stays clean.
var scriptFiles = []string{"package.json", "package-lock.json", ".npmrc", "client.mjs"}

// installScript installs the packages of testdata/jsclient once per content into the tools folder of the repository.
var installScript = sync.OnceValues(func() (string, error) {
	hash := sha256.New()
	for _, name := range scriptFiles {
		text, err := os.ReadFile(filepath.Join("testdata", "jsclient", name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%s %d\n%s", name, len(text), text)
	}
	tools, err := filepath.Abs(filepath.Join("..", "..", ".tools"))
	if err != nil {
		return "", err
	}
	folder := filepath.Join(tools, "jsclient-"+hex.EncodeToString(hash.Sum(nil)[:6]))
	if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
		return folder, err
	}
	if err := os.MkdirAll(tools, 0o755); err != nil {
		return "", err
	}
	// Installed aside and renamed, so that an interrupted installation is never taken for a whole one.
	aside, err := os.MkdirTemp(tools, "jsclient-new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(aside)
	for _, name := range scriptFiles {
		text, err := os.ReadFile(filepath.Join("testdata", "jsclient", name))
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(aside, name), text, 0o644); err != nil {
			return "", err
		}
	}
	npm := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	npm.Dir = aside
	if out, err := npm.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	if err := os.Rename(aside, folder); err != nil {
		if _, there := os.Stat(folder); there != nil {
			return "", err
		}
	}
	return folder, nil
})

// script starts a Node process.
func (s story) script() *script {
	s.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			s.Skipf("%s is missing: the test of matrix-js-sdk needs Node 20 or newer with npm", program)
		}
	}
	folder, err := installScript()
	s.ok(err)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), storyWithin) // not the test's own: Node ends by the end of its input
	s.Cleanup(cancel)
	node := exec.CommandContext(ctx, "node", "client.mjs")
	node.Dir = folder
	in, err := node.StdinPipe()
	s.ok(err)
	out, err := node.StdoutPipe()
	s.ok(err)
	j := &script{s: s, in: in, lines: make(chan map[string]any, 64), errors: &bytes.Buffer{}}
	node.Stderr = j.errors
	s.ok(node.Start())
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(j.lines)
		scanner := bufio.NewScanner(out)
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			var line map[string]any
			if json.Unmarshal(scanner.Bytes(), &line) == nil {
				j.lines <- line
			}
		}
	}()
	s.Cleanup(func() {
		in.Close()
		for range j.lines {
		}
		<-read
		if err := node.Wait(); err != nil {
			s.Errorf("node: %v", err)
		}
		if s.Failed() {
			s.Logf("node said:\n%s", j.errors.Bytes()[max(0, j.errors.Len()-20_000):])
		}
	})
	return j
}

func (j *script) next() map[string]any {
	j.s.Helper()
	line, ok := <-j.lines
	if !ok {
		j.s.Fatal("node ended")
	}
	if line["news"] != nil {
		j.news = append(j.news, line)
	}
	return line
}

// do runs one command of client.mjs.
func (j *script) do(command string, arguments map[string]any) map[string]any {
	j.s.Helper()
	j.last++
	line := map[string]any{"answer": j.last, "do": command}
	for k, v := range arguments {
		line[k] = v
	}
	text, err := json.Marshal(line)
	j.s.ok(err)
	_, err = j.in.Write(append(text, '\n'))
	j.s.ok(err)
	for {
		answer := j.next()
		if answer["answer"] != j.last {
			continue
		}
		if answer["error"] != nil {
			j.s.Fatalf("%s: %v", command, answer["error"])
		}
		return answer
	}
}

// until waits for news with the given values and returns them.
func (j *script) until(want map[string]any) map[string]any {
	j.s.Helper()
	fits := func(news map[string]any) bool {
		for k, v := range want {
			if news[k] != v {
				return false
			}
		}
		return true
	}
	for {
		if i := slices.IndexFunc(j.news, fits); i >= 0 {
			return j.news[i]
		}
		j.next()
	}
}

// TestSecondClient lets matrix-js-sdk with Rust crypto, which shares no code with mautrix-go, talk with it in encrypted rooms between two tenants. Both
// sign in with the full Matrix ID at the one client address that all tenants share.
func TestSecondClient(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
		s := tell(t)
		cell := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"praxis.test", "klinik.test"}, Database: urls[0]}).Cell(0)
		anna := s.person(cell, "@anna:praxis.test")
		account := cell.SignIn(t, "@berta:klinik.test")
		berta := s.script()
		session := berta.do("signIn", map[string]any{"url": cell.URL, "user": account.User, "password": account.Password})
		if session["user"] != "@berta:klinik.test" {
			t.Fatalf("signed in as %v", session["user"])
		}
		if answer := berta.do("identity", map[string]any{"password": account.Password}); answer["ready"] != true {
			t.Errorf("no cross-signing identity: %v", answer)
		}

		// In Anna's room.
		room, err := anna.CreateRoom(s.ctx, "Konsil", "@berta:klinik.test")
		s.ok(err)
		berta.until(map[string]any{"news": "membership", "room": room.String(), "membership": "invite"})
		berta.do("join", map[string]any{"room": room, "via": []string{"praxis.test"}})
		s.ok(anna.Until(s.ctx, "the join", func() bool { return anna.Client.StateStore.IsInRoom(s.ctx, room, "@berta:klinik.test") }))
		s.talk(anna, berta, room)

		// In Berta's.
		other := id.RoomID(berta.do("createRoom", map[string]any{"invite": []string{anna.User().String()}})["room"].(string))
		s.ok(anna.Until(s.ctx, "the invitation", func() bool { return anna.Invitations()[other] != "" }))
		s.ok(anna.Join(s.ctx, other, "klinik.test"))
		berta.until(map[string]any{"news": "membership", "room": other.String(), "membership": "join"})
		s.talk(anna, berta, other)
		s.once(room, anna.Device)
		s.once(other, anna.Device)
	})
}

// talk exchanges messages between the two kinds of clients.
func (s story) talk(a *person, j *script, room id.RoomID) {
	s.Helper()
	for _, text := range []string{"Haben Sie Zeit?", "Es eilt nicht."} {
		sent, err := a.Send(s.ctx, room, text)
		s.ok(err)
		got := j.until(map[string]any{"news": "message", "room": room.String(), "id": sent.String()})
		if got["text"] != text || got["encrypted"] != true || got["sender"] != a.User().String() {
			s.Errorf("matrix-js-sdk got %v, want %q", got, text)
		}
		back := id.EventID(j.do("send", map[string]any{"room": room, "text": "Antwort auf: " + text})["id"].(string))
		if m := s.hear(a.Device, room, back); m.Text != "Antwort auf: "+text || !m.Encrypted {
			s.Errorf("mautrix got %+v", m)
		}
	}
}
