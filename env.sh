# Sets the calling shell up for `bisenetv2` and, where a ROS 2 is installed, for `ros2`.
#
#   . ./env.sh          bash, zsh, or from the repository's root any POSIX shell
#
# Needs one finished `make`. Where a ROS 2 was sourced before, that one is used; otherwise the
# wheels in .venv are. Sourcing it twice does no harm.

if [ -n "${BASH_SOURCE:-}" ]; then
  _bisenetv2_root=$(cd "$(dirname "$BASH_SOURCE")" && pwd)
elif [ -n "${ZSH_VERSION:-}" ]; then
  eval '_bisenetv2_root=${${(%):-%x}:A:h}'
else  # a plain shell does not tell where a sourced file lies
  _bisenetv2_root=$PWD
fi

if [ ! -f "$_bisenetv2_root/install/local_setup.sh" ]; then
  echo "env.sh: no build in '$_bisenetv2_root': run \`make\` there first (a shell other than bash" \
    "and zsh has to source env.sh from that directory)" >&2
  unset _bisenetv2_root
  return 1
fi

# Puts directory $2 in front of the search path in variable $1, unless it is in there.
_bisenetv2_prepend() {
  eval "_bisenetv2_old=\${$1:-}"
  case ":$_bisenetv2_old:" in
    *":$2:"*) ;;
    *) eval "export $1=\"\$2\${_bisenetv2_old:+:\$_bisenetv2_old}\"" ;;
  esac
}

_bisenetv2_prepend PATH "$_bisenetv2_root/.venv/bin"
export VIRTUAL_ENV="$_bisenetv2_root/.venv"  # so that CMake finds this Python
if [ -d "$_bisenetv2_root/.venv/share/rclpy" ]; then  # the wheels' ROS 2
  _bisenetv2_prepend AMENT_PREFIX_PATH "$_bisenetv2_root/.venv"
  _bisenetv2_prepend CMAKE_PREFIX_PATH "$_bisenetv2_root/.venv"
  _bisenetv2_prepend LD_LIBRARY_PATH "$_bisenetv2_root/.venv/lib"
fi

COLCON_CURRENT_PREFIX=$_bisenetv2_root/install
. "$_bisenetv2_root/install/local_setup.sh"

# Images need more shared memory than Fast DDS gives by default. A profile of your own stays.
eval "$(python3 -m bisenetv2_ros.node.fastdds)"

unset -f _bisenetv2_prepend
unset _bisenetv2_root _bisenetv2_old COLCON_CURRENT_PREFIX
