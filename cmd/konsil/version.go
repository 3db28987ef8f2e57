// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// versionCommand is konsil version.
type versionCommand struct{}

// Run prints the version and what it was built from and with.
func (versionCommand) Run() error {
	fmt.Println("konsil", buildVersion(), runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH)
	return nil
}

// buildVersion is the module's version, or the revision it was built from.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	version, revision, modified := info.Main.Version, "", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				modified = "+"
			}
		}
	}
	if version == "" || version == "(devel)" {
		version = "development"
		if revision != "" {
			version += "-" + revision + modified
		}
	}
	return version
}
