"""The dashboard: a Streamlit app that watches runs, starts searches and steers them. It reads run folders and never imports torch."""
