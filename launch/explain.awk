# Passes on what a launcher says on stderr. Where machines did not find each other, or lost the one where they meet, one
# line takes the place of torch's traceback. Its stacks of C++ addresses, and what it warns of that is as it should be
# here, are left out.
#
#     awk -v name=SCRIPT -v late="what to say if not all came" -v lost="... if nobody answers any more" -f explain.awk

function settle() {
    if (held ~ /RendezvousTimeoutError/) print name ": " late
    else if (held ~ /Rendezvous[A-Za-z]*Error|DistStoreError|DistNetworkError/) print name ": " lost
    else printf "%s", held
    fflush()
    held = ""
    holding = 0
}

/^Traceback / { holding = 1 }
# The parts of a traceback, and what joins it to the one that it was caused by.
holding && (/^$/ || /^ / || /^Traceback / || /^The above exception/ || /^During handling/ || /^[A-Za-z_.0-9]+Error/) {
    held = held $0 "\n"
    next
}
holding { settle() }
/^frame #[0-9]+: / || /^<omitting python frames>$/ || /^Exception raised from .*most recent call first/ { next }
/hostname of the client socket cannot be retrieved/ || /node_rank is only used for static/ { next }
{ print; fflush() }
END { settle() }
