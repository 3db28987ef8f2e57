// SPDX-License-Identifier: Apache-2.0

//go:build !goolm

// Command konsil-testdriver needs the build tag goolm: its clients encrypt.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "konsil-testdriver: built without its clients; build with `go build -tags goolm`")
	os.Exit(1)
}
