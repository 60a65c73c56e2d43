// Package attack attacks a daemon from outside, as somebody on its network could, and
// looks at what an innocent caller notices of it.
//
// It has tests alone. Each attack is one of them, against a daemon of its own: a process
// that is built as the shipped one is, on the loopback interface, in the memory that
// deploy/kubernetes gives it. While the attack goes on, an innocent caller asks about a
// counter of its own, and a probe asks for the health of the daemon. A daemon has
// fallen if it ends, takes more memory than it has, does not answer a probe, lets the
// innocent caller do more or less than its limit says, or does not stop when it is told
// to.
//
// Attacker, innocent caller and daemon are processes of their own, which share the processors
// here. Elsewhere an attacker has a machine of its own. So in the large form the attacker gives
// way to the other two: it has the lowest priority. What the innocent caller waits for is then what the daemon
// does for the attacker, and not what the attacker does.
//
// The attacks have two sizes. "go test" runs the small ones, in less than a minute, and
// prints how long the innocent caller has waited. "make attack" runs the large ones, and
// then a long wait is a failure too. Both are bounded in count and time, and end what
// they started.
package attack
