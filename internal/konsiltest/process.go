// SPDX-License-Identifier: Apache-2.0

package konsiltest

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Program builds the real binary from the tree under test. It is there until t ends, so a test with many cases builds it once.
func Program(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "konsil")
	cmd := exec.Command("go", "build", "-tags", "goolm", "-o", file, "github.com/konsil-health/konsil/cmd/konsil")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return file
}

// logLevel is what a cell logs: a process says by its log that it is ready.
func (c *Cell) logLevel() string {
	if c.program != "" {
		return "info"
	}
	return "warn"
}

// startProcess starts the binary and returns when it says that it is ready.
func (c *Cell) startProcess() {
	c.t.Helper()
	c.process = exec.Command(c.program, "serve", "--config", c.file)
	output, input := io.Pipe()
	c.process.Stdout, c.process.Stderr = input, input
	if err := c.process.Start(); err != nil {
		c.t.Fatal(err)
	}
	process, ended := c.process, make(chan error, 1)
	go func() {
		err := process.Wait()
		input.Close()
		ended <- err
	}()
	c.ended = ended
	c.stop = func() { process.Process.Signal(syscall.SIGTERM) }
	lines := bufio.NewReader(output)
	var said strings.Builder
	for {
		line, err := lines.ReadString('\n')
		said.WriteString(line)
		if strings.Contains(line, "ready") {
			go io.Copy(io.Discard, lines)
			return
		}
		if err != nil {
			c.t.Fatalf("konsil serve ended before it was ready: %v\n%s", <-ended, said.String())
		}
	}
}

// Kill ends a cell's process at once, as kill -9 does. Nothing of it has a chance to finish.
func (c *Cell) Kill() {
	c.t.Helper()
	if c.process == nil {
		c.t.Fatal("only a cell with a program can be killed")
	}
	c.stop = nil
	if err := c.process.Process.Kill(); err != nil {
		c.t.Fatal(err)
	}
	<-c.ended
}
