// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
)

// process is a running `konsil serve`.
type process struct {
	cmd *exec.Cmd
	// client, federation and operator are the addresses it listens on; client is that of the central services where there is no homeserver.
	client, federation, operator string
	// ready is the time from process start to the first line that says so.
	ready time.Duration
	// log collects what it wrote, for errors.
	log   *tailBuffer
	ended chan error
}

// startWithin and stopWithin end a bench whose server hangs.
const (
	startWithin = time.Minute
	stopWithin  = 20 * time.Second
)

// configuration of a server under measurement: plain Matrix, everything that would hold a load back off.
const configuration = `policy: open
environment: development
data: %q
database: {url: %q}
tenants: [%s]
listeners: {client: ["127.0.0.1:0"], operator: "127.0.0.1:0", federation: [{address: "127.0.0.1:0", plain: true}]}
registration: {mode: open}
rate_limits: false
presence: false
logging: {access: false, level: info, format: json}
`

// start runs the program on a place and waits until it says that it is ready.
func start(ctx context.Context, o Options, p *place, tenants ...string) (*process, error) {
	quoted := make([]string, len(tenants))
	for i, t := range tenants {
		quoted[i] = strconv.Quote(t)
	}
	file := filepath.Join(p.folder, "konsil.yaml")
	if err := os.WriteFile(file, []byte(fmt.Sprintf(configuration, p.folder, p.url, strings.Join(quoted, ", "))+o.extra), 0o600); err != nil {
		return nil, err
	}
	return startFile(ctx, o, file)
}

// startFile is start with a configuration of the caller's.
func startFile(ctx context.Context, o Options, file string) (*process, error) {
	s := &process{cmd: exec.Command(o.Program, "serve", "--config", file), log: &tailBuffer{}, ended: make(chan error, 1)}
	s.cmd.Env = append(os.Environ(), o.Environ...)
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Program, err)
	}
	ready := make(chan struct{})
	go func() {
		s.read(stderr, ready)
		s.ended <- s.cmd.Wait()
	}()
	select {
	case <-ready:
		s.ready = time.Since(began)
		return s, nil
	case err := <-s.ended:
		return nil, fmt.Errorf("the server ended: %w\n%s", err, s.log)
	case <-ctx.Done():
	case <-time.After(startWithin):
	}
	s.kill()
	return nil, fmt.Errorf("the server was not ready\n%s", s.log)
}

// read follows the log; its "ready" line names the addresses.
func (s *process) read(r io.Reader, ready chan struct{}) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		s.log.add(lines.Bytes())
		var line struct {
			Msg        string `json:"msg"`
			Client     string `json:"client"`
			Federation string `json:"federation"`
			Central    string `json:"central"`
			Operator   string `json:"operator"`
		}
		if s.client == "" && json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "ready" {
			if s.client, s.federation, s.operator = line.Client, line.Federation, line.Operator; s.client == "" {
				s.client = line.Central
			}
			close(ready)
		}
	}
}

// stop ends the server as an operator does.
func (s *process) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop the server: %w\n%s", err, s.log)
	}
	select {
	case err := <-s.ended:
		if err != nil {
			return fmt.Errorf("the server ended: %w\n%s", err, s.log)
		}
		return nil
	case <-time.After(stopWithin):
		s.kill()
		return errors.New("the server did not stop")
	}
}

// kill ends the server as a power cut does, as far as a process can.
func (s *process) kill() {
	if s.cmd.Process.Kill() == nil {
		<-s.ended
	}
}

// metrics reads the server's own figures. Names without labels only.
func (s *process) metrics(ctx context.Context) (map[string]float64, error) {
	body, err := s.operatorGet(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for line := range bytes.Lines(body) {
		name, value, ok := strings.Cut(strings.TrimSpace(string(line)), " ")
		if !ok || strings.HasPrefix(name, "#") || strings.Contains(name, "{") {
			continue
		}
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			out[name] = v
		}
	}
	return out, nil
}

// operatorGet asks the operator's listener.
func (s *process) operatorGet(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+s.operator+path, nil)
	if err != nil {
		return nil, err
	}
	req.Close = true // an idle connection would count as an open file of the server
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s", path, res.Status)
	}
	return body, err
}

// profile writes a profile of the server into a file.
func (s *process) profile(ctx context.Context, path, file string) error {
	body, err := s.operatorGet(ctx, path)
	if err != nil {
		return err
	}
	return os.WriteFile(file, body, 0o600)
}

// tailBuffer keeps the last lines of a log.
type tailBuffer struct {
	mu    sync.Mutex
	lines []string
}

const tailLines = 20

func (t *tailBuffer) add(line []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, string(line))
	if len(t.lines) > tailLines {
		t.lines = slices.Delete(t.lines, 0, 1)
	}
}

// String returns the lines.
func (t *tailBuffer) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "\n")
}
