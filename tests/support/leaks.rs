//! What a job leaves behind that does not want to go.

/// Five ways to be out of the reach of a signal to a process group, or to hold a stage's output. Their pids are in `pids`.
pub const FIVE: &str = "
rm -f pids
sleep 300 & echo $! >> pids
nohup sleep 300 > /dev/null 2>&1 & echo $! >> pids
setsid sh -c 'echo $$ >> pids; exec sleep 300' > /dev/null 2>&1 &
env -i sh -c 'echo $$ >> pids; exec sleep 300' > /dev/null 2>&1 &
( ( setsid sh -c 'echo $$ >> pids; exec sleep 300' > /dev/null 2>&1 & ) )
while [ $(wc -l < pids) -lt 5 ]; do sleep 0.02; done
";

/// The same, where nobody holds the output: a runner without a cage would wait for the one who does.
pub fn five_without_output() -> String {
    FIVE.replacen("sleep 300 &", "sleep 300 > /dev/null 2>&1 &", 1)
}
