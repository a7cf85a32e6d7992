# `ROOT NAME...`: jobs on the host, in the guest's root file system.
root=$1
shift
mount -t tmpfs tmpfs "$root/tmp"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
exec chroot "$root" /bench/jobs "$@"
