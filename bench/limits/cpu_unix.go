// SPDX-License-Identifier: Apache-2.0

//go:build unix

package limits

import (
	"syscall"
	"time"
)

// processTime is the processor time that this process has used; 0 where the system does not say.
func processTime() time.Duration {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
