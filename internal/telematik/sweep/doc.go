// SPDX-License-Identifier: Apache-2.0

// Package sweep ends rooms that the TI-Messenger's rules do not let stand: rooms in which insured people have stayed alone with each other after the last
// professional left (AF_10233), and orphaned rooms, in which nobody ever said anything and nobody but their creator was (A_28564-01). The composition root
// starts it under policy ti and hands it every event that is stored. It never looks at a room before its time has come, and never removes a message.
package sweep
