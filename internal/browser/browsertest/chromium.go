// SPDX-License-Identifier: Apache-2.0

package browsertest

import (
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"
)

// within only ends a test that hangs.
const within = 2 * time.Minute

// programs are the names under which systems have Chromium; the first one found is taken. KONSIL_TEST_CHROMIUM names another.
var programs = []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"}

// Chromium is a running browser. Its pages may be used by several goroutines, each page by one.
type Chromium struct {
	t    testing.TB
	pipe *pipe
}

// program finds the browser.
func program() (string, error) {
	if name := os.Getenv("KONSIL_TEST_CHROMIUM"); name != "" {
		return name, nil
	}
	for _, name := range programs {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("Chromium is missing (Debian: apt-get install chromium; elsewhere install Chromium or Chrome, or name it in KONSIL_TEST_CHROMIUM)")
}

// Start starts Chromium without a screen; it ends with the test.
func Start(t testing.TB) *Chromium {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Skip("skipped: ", err)
	}
	ours, theirs, err := pipes()
	if err != nil {
		t.Fatal(err)
	}
	browser := exec.Command(path, "--headless", "--remote-debugging-pipe", "--user-data-dir="+t.TempDir(), "--no-first-run", "--disable-gpu",
		"--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-extensions",
		"--disable-sync", "--metrics-recording-only", "--hide-scrollbars", "--password-store=basic", "--use-mock-keychain",
		// Background pages are full members of a story: their timers must not be slowed down.
		"--disable-renderer-backgrounding", "--disable-background-timer-throttling", "--disable-backgrounding-occluded-windows",
		// The sandbox needs rights that containers and root lack; only our own pages are opened.
		"--no-sandbox", "about:blank")
	browser.ExtraFiles = theirs[:] // descriptors 3 (it reads) and 4 (it writes)
	if err := browser.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range theirs {
		f.Close()
	}
	c := &Chromium{t: t, pipe: newPipe(ours)}
	t.Cleanup(func() {
		c.pipe.call("", "Browser.close", nil, nil)
		ended := make(chan struct{})
		go func() { browser.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(within):
			browser.Process.Kill()
			<-ended
		}
		c.pipe.close()
	})
	return c
}

// pipes are the two directions to the browser: our ends and its ends, for reading and for writing each.
func pipes() (ours, theirs [2]*os.File, err error) {
	if theirs[0], ours[1], err = os.Pipe(); err != nil {
		return ours, theirs, err
	}
	ours[0], theirs[1], err = os.Pipe()
	return ours, theirs, err
}
