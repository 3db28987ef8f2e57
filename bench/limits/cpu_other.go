// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package limits

import "time"

// processTime is not known on this system.
func processTime() time.Duration { return 0 }
