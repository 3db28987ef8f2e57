// SPDX-License-Identifier: Apache-2.0

package room

import "time"

// PauseAfter and StagePasses are known to the tests.
var PauseAfter = pauseAfter

const StagePasses = stagePasses

// PauseStaged sets how long staged PDUs wait until they are tried again.
func (s *Service) PauseStaged(d time.Duration) {
	s.stager.pause = func(int64) time.Duration { return d }
}
