#!/bin/bash
# try.sh MODEL [-DX]  (development only)
d=$(mktemp -d); here=$(cd $(dirname $0) && pwd); m=$1; shift
cd $d && cp $here/*.h $here/$m.pml . && (ulimit -v 2000000; timeout 20 spin -a "$@" $m.pml) && gcc -O1 -w -DSAFETY -DMEMLIM=900 -DVECTORSZ=2048 -o pan pan.c && timeout ${LIMIT:-40} ./pan -m200000 | grep -E "errors|assert|invalid|too small|states, stored|elapsed|unreached|pml:" ; [ -f *.trail ] && [ -n "$TRAIL" ] && spin -k $m.pml.trail -p -t "$@" $m.pml | grep -v Memory | tail -$TRAIL; rm -rf $d
