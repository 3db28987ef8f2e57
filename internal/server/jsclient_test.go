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
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"maunium.net/go/mautrix/id"

	"github.com/konsil-health/konsil/internal/browser/browsertest"
	"github.com/konsil-health/konsil/internal/konsiltest"
)

// script is matrix-js-sdk with Rust crypto (testdata/jsclient) in a Node process or a page of Chromium of its own.
type script struct {
	s    story
	say  func(line []byte)     // hands a command to it
	hear func() (string, bool) // the next line that it says; false when it ended
	news []map[string]any
	last float64
}

// scriptFiles are what Node needs; they are copied beside the installed packages, so that the source tree stays clean.
var scriptFiles = []string{"package.json", "package-lock.json", ".npmrc", "client.mjs", "crypto.mjs", "node.mjs", "page.mjs"}

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
	bundle := exec.Command("npm", "run", "bundle")
	bundle.Dir = aside
	if out, err := bundle.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm run bundle: %w\n%s", err, out)
	}
	if err := os.Rename(aside, folder); err != nil {
		if _, there := os.Stat(folder); there != nil {
			return "", err
		}
	}
	return folder, nil
})

// scriptFolder is where the packages lie; the test is skipped without what installs them.
func (s story) scriptFolder() string {
	s.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			s.Skipf("%s is missing: the test of matrix-js-sdk needs Node 20 or newer with npm", program)
		}
	}
	folder, err := installScript()
	s.ok(err)
	return folder
}

// nodeScript starts a Node process.
func (s story) nodeScript() *script {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), storyWithin) // not the test's own: Node ends by the end of its input
	s.Cleanup(cancel)
	node := exec.CommandContext(ctx, "node", "node.mjs")
	node.Dir = s.scriptFolder()
	in, err := node.StdinPipe()
	s.ok(err)
	out, err := node.StdoutPipe()
	s.ok(err)
	var said bytes.Buffer
	node.Stderr = &said
	s.ok(node.Start())
	scanner := bufio.NewScanner(out)
	scanner.Buffer(nil, 1<<20)
	s.Cleanup(func() {
		in.Close()
		for scanner.Scan() {
		}
		if err := node.Wait(); err != nil {
			s.Errorf("node: %v", err)
		}
		if s.Failed() {
			s.Logf("node said:\n%s", said.Bytes()[max(0, said.Len()-20_000):])
		}
	})
	return &script{s: s, say: func(line []byte) {
		_, err := in.Write(append(line, '\n'))
		s.ok(err)
	}, hear: func() (string, bool) {
		more := scanner.Scan()
		return scanner.Text(), more
	}}
}

// pagePolicy is what a messenger's page needs at least: Rust crypto is WebAssembly.
const pagePolicy = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src http:; style-src 'unsafe-inline'"

// pageScript opens a page of Chromium at an origin of its own, so that everything that it asks of Konsil crosses origins.
func (s story) pageScript(chromium *browsertest.Chromium) *script {
	s.Helper()
	folder := s.scriptFolder()
	site := http.NewServeMux()
	site.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", pagePolicy)
		io.WriteString(w, `<!DOCTYPE html><title>Messenger</title><script type="module" src="page.js"></script>`)
	})
	site.Handle("GET /page.js", http.FileServer(http.Dir(filepath.Join(folder, "bundle"))))
	site.Handle("GET /pkg/", http.FileServer(http.Dir(filepath.Join(folder, "node_modules", "@matrix-org", "matrix-sdk-crypto-wasm"))))
	origin := httptest.NewServer(site)
	s.Cleanup(origin.Close)
	page := chromium.Page(s, browsertest.Look{})
	page.Listen("konsilSay")
	page.Open(origin.URL)
	return &script{s: s, hear: page.Heard, say: func(line []byte) {
		text, err := json.Marshal(string(line))
		s.ok(err)
		page.Eval("konsilDo("+string(text)+")", nil)
	}}
}

func (j *script) next() map[string]any {
	j.s.Helper()
	text, ok := j.hear()
	if !ok {
		j.s.Fatal("matrix-js-sdk ended")
	}
	var line map[string]any
	if json.Unmarshal([]byte(text), &line) == nil && line["news"] != nil {
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
	j.say(text)
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

// TestSecondClient lets matrix-js-sdk with Rust crypto, which shares no code with mautrix-go, talk with it in encrypted rooms between two tenants of a
// running konsil serve: in Node, and in Chromium with its storage and its rules for scripts and origins. Both sign in with the full Matrix ID at the one
// client address that all tenants share.
func TestSecondClient(t *testing.T) { eachHost(t, secondClient) }

// eachHost tells a story whose scripts run in Node, and again in Chromium; open starts one there.
func eachHost(t *testing.T, told func(t *testing.T, program string, open func(story) *script)) {
	t.Parallel()
	program := konsiltest.Program(t)
	t.Run("node", func(t *testing.T) {
		t.Parallel()
		told(t, program, story.nodeScript)
	})
	t.Run("chromium", func(t *testing.T) {
		t.Parallel()
		chromium := browsertest.Start(t)
		told(t, program, func(s story) *script { return s.pageScript(chromium) })
	})
}

func secondClient(t *testing.T, program string, open func(story) *script) {
	konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
		s := tell(t)
		cell := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"praxis.test", "klinik.test"}, Database: urls[0], Program: program}).Cell(0)
		anna := s.person(cell, "@anna:praxis.test")
		account := cell.SignIn(t, "@berta:klinik.test")
		berta := open(s)
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
